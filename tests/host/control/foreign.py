"""Controls of other loaders and families, each the host's own class around tiny random weights.

Every kind says how its model reads it, in our own words: `places` gives (list, index) from shallow
to deep, read off the host's models and not off the pack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from controlnet_pp.tests.host.control import foreign_transformers as transformers
from controlnet_pp.tests.host.control import foreign_unets as unets
from controlnet_pp.tests.host.harness import TINY, TINY_XL, Host, picture, prompt
from torch import Tensor


@dataclass(frozen=True)
class Foreign:
    """One kind of control, and a model that takes it."""

    control: Callable[[Host], Any]
    model: Callable[[Host], Any]
    prompts: Callable[[], tuple[list, list]]
    places: tuple[tuple[str, int] | None, ...]
    latent: tuple[int, ...] = (4, 16, 16)
    reads_latents: bool = False

    def latents(self, batch: int = 1) -> Tensor:
        return torch.zeros(batch, *self.latent)


def host_apply(host: Host, kind: Foreign, control: Any, **changes: Any) -> tuple:
    """(positive, negative) through the host's own Apply node."""
    return _apply(host, "ControlNetApplyAdvanced", kind, control, **changes)


def our_apply(host: Host, kind: Foreign, control: Any, **changes: Any) -> tuple:
    """The same through ours."""
    return _apply(host, "CNPP_Apply", kind, control, **changes)


def _apply(host: Host, node: str, kind: Foreign, control: Any, **changes: Any) -> tuple:
    positive, negative = kind.prompts()
    inputs = {
        "positive": positive,
        "negative": negative,
        "control_net": control,
        "image": picture(),
        "strength": 0.5,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    if kind.reads_latents:
        inputs["vae"] = PoolingVAE(kind.latent)
    return host.call(node, **inputs | changes)


def sampled(host: Host, kind: Foreign, conditioning: tuple, **sampling: Any) -> Tensor:
    sampling = {"latent": kind.latents(), "steps": 2} | sampling
    return host.sample(kind.model(host), *conditioning, **sampling)


def by_hand(conditioning: tuple, kind: Foreign, edit: Callable[..., list]) -> tuple:
    """Conditioning of the host whose residuals, shallow to deep, pass through `edit` at each call.

    edit(blocks, x, t, options) -> blocks
    """
    for control in {
        id(o["control"]): o["control"] for side in conditioning for _, o in side
    }.values():
        control.get_control = _edited(control.get_control, kind.places, edit)
    return conditioning


def _edited(original: Callable[..., Any], places: tuple, edit: Callable[..., list]) -> Any:
    def get_control(x: Tensor, t: Tensor, cond: dict, count: int, options: dict) -> Any:
        lists = original(x, t, cond, count, options)
        if lists is None:
            return None
        lists = {key: list(blocks) for key, blocks in lists.items()}
        blocks = [None if place is None else lists[place[0]][place[1]] for place in places]
        for place, block in zip(places, edit(blocks, x, t, options), strict=True):
            if place is not None:
                lists[place[0]][place[1]] = block
        return lists

    return get_control


def times(blocks: list[Tensor | None], factors: list[float]) -> list[Tensor | None]:
    """Residuals by hand: a factor for each, and None where it is zero."""
    return [
        None if block is None or factor == 0.0 else block * factor
        for block, factor in zip(blocks, factors, strict=True)
    ]


def untouched(host: Host, name: str, kind: Foreign, control: Any) -> Tensor:
    """What the host's own class gives, without us."""
    return host.once(
        ("untouched", name), lambda: sampled(host, kind, host_apply(host, kind, control))
    )


class PoolingVAE:
    """Stands for a VAE: latents are means over 8x8 pixels, the three channels in turns."""

    def __init__(self, latent: tuple[int, ...]) -> None:
        self.channels, self.video = latent[0], len(latent) == 4

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pixels: Tensor) -> Tensor:
        small = F.avg_pool2d(pixels.movedim(-1, 1), 8)
        latent = small[:, [i % 3 for i in range(self.channels)]]
        return latent.unsqueeze(2) if self.video else latent


def unet_prompts(layout: dict[str, Any]) -> Callable[[], tuple[list, list]]:
    return lambda: (prompt(layout, 1), prompt(layout, 2))


def transformer_prompts() -> tuple[list, list]:
    layout = {"context_dim": 24, "adm_in_channels": 16 + 6 * 256}
    return prompt(layout, 1), prompt(layout, 2)


def _in_order(*keys: tuple[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple((key, i) for key, count in keys for i in range(count))


_T2I = (*(("input", 11 - i) for i in range(12)), None)


def _unet(control: Callable[[Host], Any], layout: dict[str, Any], places: tuple) -> Foreign:
    return Foreign(control, lambda host: host.model(layout), unet_prompts(layout), places)


def _dit(
    control: Callable[[Host], Any],
    model: Callable[[Host], Any],
    *keys: tuple[str, int],
    latent: tuple[int, ...] = (16, 16, 16),
    reads_latents: bool = True,
) -> Foreign:
    return Foreign(control, model, transformer_prompts, _in_order(*keys), latent, reads_latents)


_VIDEO = (16, 1, 16, 16)
UNETS = {
    "controlnet": _unet(unets.controlnet, TINY, _in_order(("output", 4), ("middle", 1))),
    "shuffle": _unet(unets.shuffle_controlnet, TINY, _in_order(("output", 4), ("middle", 1))),
    "sdxl controlnet": _unet(
        unets.sdxl_controlnet, TINY_XL, _in_order(("output", 9), ("middle", 1))
    ),
    "control-lora": _unet(unets.control_lora, TINY, _in_order(("output", 4), ("middle", 1))),
    "t2i light": _unet(unets.t2i_light, unets.FOUR_LEVELS, _T2I),
    "t2i full": _unet(unets.t2i_full, unets.FOUR_LEVELS, _T2I),
    "t2i sketch": _unet(unets.t2i_sketch, unets.FOUR_LEVELS, _T2I),
    # Ten inputs for nine skips: the deepest is empty, and nobody takes it.
    "t2i xl": _unet(
        unets.t2i_xl, unets.THREE_LEVELS, (*(("input", 9 - i) for i in range(9)), ("middle", 0))
    ),
}
TRANSFORMERS = {
    "flux xlabs": _dit(
        transformers.flux_xlabs, transformers.FLUX_MODEL, ("input", 3), reads_latents=False
    ),
    "flux instantx": _dit(
        transformers.flux_instantx, transformers.FLUX_MODEL, ("input", 3), ("output", 4)
    ),
    "flux inpaint": _dit(transformers.flux_inpaint, transformers.FLUX_MODEL, ("input", 3)),
    "sd3": _dit(transformers.sd3_controlnet, transformers.MMDIT_MODEL, ("output", 3)),
    "sd3.5": _dit(transformers.sd35_controlnet, transformers.MMDIT_MODEL, ("output", 4)),
    "qwen instantx": _dit(
        transformers.qwen_instantx, transformers.QWEN_MODEL, ("input", 4), latent=_VIDEO
    ),
    "qwen fun": _dit(transformers.qwen_fun, transformers.QWEN_MODEL, ("input", 4), latent=_VIDEO),
}
KINDS = UNETS | TRANSFORMERS
# The rest differ from one of these in their network alone.
SHAPED = [
    name
    for name in KINDS
    if name not in ("shuffle", "sdxl controlnet", "t2i light", "t2i sketch", "flux inpaint")
]


def of_host(host: Host, name: str) -> tuple[Foreign, Any]:
    """A kind and one control of it; ImportError where this version of the host lacks its class."""
    kind = KINDS[name]
    return kind, host.once(("foreign", name), lambda: kind.control(host))
