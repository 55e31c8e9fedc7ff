"""Controls of other loaders and families: whether they fit a model, and what they say if not.

A ControlNet for UNets is looked at in `family`; this is about everything else that a host can load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy import controlnet as host
from comfy import model_base

from ....cnpp_core.control.partial import is_controlnet
from ..memory import is_out_of_memory
from .family import block_channels, describe_unet, unet_block_layout

UNET = "a Stable Diffusion UNet"
_PACK = __name__.rpartition(".nodes.host.")[0]
# Module of the network -> the host's class of models whose forward reads its lists.
_MODELS = {
    "comfy.t2i_adapter.adapter": UNET,
    "comfy.ldm.cascade.controlnet": "StableCascade_C",
    "comfy.cldm.mmdit": "SD3",
    "comfy.cldm.dit_embedder": "SD3",
    "comfy.ldm.hydit.controlnet": "HunyuanDiT",
    "comfy.ldm.flux.controlnet": "Flux",
    "comfy.ldm.qwen_image.controlnet": "QwenImage",
}


def require_fit(control: Any, model: Any) -> None:
    """ValueError if a control can't speak to the host's BaseModel ``model``; unknown kinds pass."""
    if isinstance(control, host.ControlLora):
        _require_lora(control.control_weights, model)
        return
    wanted = _MODELS.get(type(_network(control)).__module__)
    if wanted is None:
        return
    is_unet = unet_block_layout(model) is not None
    known = getattr(model_base, wanted, ()) if wanted != UNET else ()
    if not (is_unet if wanted == UNET else isinstance(model, known)):
        raise ValueError(
            f"{_name(control)} was made for {wanted}, but the model is {_model(model)}. Load a "
            "control that was made for this model, or another model."
        )


@contextmanager
def explained(control: Any, model: Any) -> Iterator[None]:
    """Names control and model in the errors of a network that got what it was not made for.

    Out of memory, a fault of this pack, and what a ControlNet for UNets says pass as they are.
    """
    try:
        yield
    except (RuntimeError, TypeError, AttributeError, KeyError, IndexError) as error:
        if is_out_of_memory(error) or _is_ours(error):
            raise
        if is_controlnet(_network(control)) and not isinstance(control, host.ControlLora):
            raise
        raise ValueError(
            f"{_name(control)} can't work with {_model(model)}: {error}. If it was made for "
            "another family of models, load one that was made for this model."
        ) from error


def _is_ours(error: BaseException) -> bool:
    """True if it was raised in this pack and not in the host or in PyTorch."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return module.startswith(f"{_PACK}.")


def _require_lora(weights: dict[str, Any], model: Any) -> None:
    if unet_block_layout(model) is None:
        raise ValueError(
            f"A control-LoRA changes the weights of {UNET}, but the model is {_model(model)}. Load "
            "a control that was made for this model."
        )
    unet = model.model_config.unet_config
    widths = {name: w.shape[0] for name, w in weights.items() if name.startswith("zero_convs.")}
    found = [widths[f"zero_convs.{i}.0.weight"] for i in range(len(widths) // 2)]
    expected = list(block_channels(unet)[:-1])
    if found != expected:
        raise ValueError(
            f"The control-LoRA was made for a UNet with blocks of {_widths(found)} channels, but "
            f"the model is {describe_unet(unet)}, whose blocks have {_widths(expected)}. Load one "
            "that was made for this model."
        )


def _network(control: Any) -> Any:
    return getattr(control, "control_model", None) or getattr(control, "t2i_model", None)


def _name(control: Any) -> str:
    network = _network(control)
    inside = "" if network is None else f" ({type(network).__name__})"
    return f"This {type(control).__name__}{inside}"


def _model(model: Any) -> str:
    unet = model.model_config.unet_config
    if unet_block_layout(model) is not None:
        return describe_unet(unet)
    return type(model).__name__


def _widths(channels: list[int]) -> str:
    return " ".join(map(str, channels))
