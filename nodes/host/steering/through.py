"""The full gradient: x0 corrected along the gradient with respect to x_t, through UNet and control.

As in universal guidance (arXiv 2302.07121) the network that makes x0 of x_t says which corrections
of x0 it believes in. That takes a graph of the whole call, and weights that stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..control.speed import calls_for_eager
from ..memory import out_of_memory, unless_out_of_memory
from .guidance import KEY, NODE, ConsistencyGuidance, GuidedRun
from .sampling import Moment, steered_through
from .x0 import frozen, whole

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SWITCH_OFF = "Switch full_gradient off: guidance without it needs nothing of this."


class FullConsistencyGuidance(ConsistencyGuidance):
    """Consistency Guidance whose gradient goes on through the model."""

    def attached_to(self, model: Any) -> Any:
        """A copy of the host's ModelPatcher; ValueError if no gradient can go through it."""
        self.decoder.require_latents_of(model)
        _require_plain(model)
        steady = whole(model, f"{NODE}: full_gradient is on, and the model")
        key = f"{KEY}_{uuid4().hex}"
        window = self.settings.window
        twin = steered_through(steady, key, lambda guider: FullGuidedRun(self, guider), window)
        self.load_with(twin, key)
        twin.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, f"{key}_whole", _require_loaded)
        return twin


class FullGuidedRun(GuidedRun):
    """One sampling under guidance along the gradient with respect to x_t."""

    def __init__(self, guidance: ConsistencyGuidance, guider: Any) -> None:
        super().__init__(guidance)
        options = guider.model_options.get("transformer_options", {})
        _require_eager(options, guider.model_patcher.model)
        self._guider = guider

    def look_through(self, x: Tensor, moment_of: Callable[[Tensor], Moment]) -> Tensor:
        """x_t (B, C, H, W) to the x0 to go on with; `moment_of` asks the model for one."""
        corrected = unless_out_of_memory(partial(self._look_through, x, moment_of))
        if corrected is None:
            raise out_of_memory(
                f"{NODE}: out of memory while the gradient went through the model, which keeps "
                f"the features of every layer for {len(x)} picture(s). {SWITCH_OFF} Fewer or "
                "smaller pictures at a time help as well."
            )
        return corrected

    def _look_through(self, x: Tensor, moment_of: Callable[[Tensor], Moment]) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad(), frozen(*self._networks()):
            point = x.detach().clone().requires_grad_()
            moment = moment_of(point)
            plain = replace(moment, x0=moment.x0.detach())
            change = self.corrected(plain) - plain.x0
            return plain.x0 + _along(change, moment.x0, point)

    def _networks(self) -> list[torch.nn.Module]:
        """Everything that the model's call runs through."""
        patchers = [self._guider.model_patcher, *getattr(self._guider, "loaded_models", ())]
        modules = [getattr(patcher, "model", None) for patcher in patchers]
        return [module for module in modules if isinstance(module, torch.nn.Module)]


def _along(change: Tensor, x0: Tensor, point: Tensor) -> Tensor:
    """The wanted change of x0 (no graph) turned to the gradient by x_t, as long as it was.

    Where the gradient is zero or not finite nothing changes.
    """
    dimensions = (-1, *[1] * (change.ndim - 1))
    length = change.float().flatten(1).norm(dim=1)
    largest = change.float().abs().flatten(1).amax(1).clamp(min=1e-30).view(dimensions)
    # Stretched, so that small numbers survive a UNet in half precision.
    (turned,) = torch.autograd.grad(x0, point, (change / largest).to(x0.dtype))
    turned = turned.float()
    norm = turned.flatten(1).norm(dim=1)
    sound = (norm > 0) & norm.isfinite()
    factor = torch.where(sound, length / norm.clamp(min=1e-30), 0.0).view(dimensions)
    step = torch.where(sound.view(dimensions), turned, 0.0) * factor
    return step.to(change.dtype)


def _require_plain(model: Any) -> None:
    """ValueError if there are weights that no gradient can pass, or several devices."""
    if model.model_options.get("multigpu_clones") or _several_devices(model):
        raise ValueError(
            f"{NODE}: full_gradient is on, and the model runs on several GPUs at once, where no "
            f"gradient is kept. {SWITCH_OFF}"
        )
    _require_eager(model.model_options.get("transformer_options", {}), model.model)
    for name, weight in model.model.diffusion_model.named_parameters():
        plain = type(weight) in (torch.nn.Parameter, Tensor) and type(weight.data) is Tensor
        if not plain or weight.dtype not in FLOATS:
            kind = type(weight).__name__ if not plain else str(weight.dtype).removeprefix("torch.")
            raise ValueError(
                f"{NODE}: full_gradient is on, and the model's weights are quantised ({kind} in "
                f"{name}), so no gradient passes them. Load the model in fp16, bf16 or fp32. Or "
                f"{SWITCH_OFF[0].lower()}{SWITCH_OFF[1:]}"
            )


def _several_devices(model: Any) -> bool:
    find = getattr(model, "get_additional_models_with_key", lambda _key: ())
    return bool(find("multigpu"))


def _require_eager(options: dict[str, Any], model: Any) -> None:
    if calls_for_eager(options, model):
        raise ValueError(
            f"{NODE}: full_gradient is on, and the model is compiled (torch.compile), so no "
            f"gradient can be taken. Bypass the node that compiles it. Or "
            f"{SWITCH_OFF[0].lower()}{SWITCH_OFF[1:]}"
        )


def _require_loaded(load: Any, patcher: Any, *args: Any, **kwargs: Any) -> Any:
    """Behind the host's loading: refuse to begin with a model that is partly in main memory."""
    found = load(patcher, *args, **kwargs)
    if getattr(patcher.model, "model_lowvram", False):
        raise ValueError(
            f"{NODE}: full_gradient is on, and the model does not fit whole into the memory of "
            f"the GPU: its layers would be gone when the gradient comes back. {SWITCH_OFF}"
        )
    return found
