"""Which kinds of condition a union network reads, each from an image of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy import controlnet as host
from torch import Tensor

from ....cnpp_core.network.union import require_types
from .apply import require_image
from .control import ControlNetPlusPlus, as_ours
from .network import TYPES, WEIGHTS, HostedNetwork

NODE = "Union Control Type"


def with_union_type(
    control_net: host.ControlBase, kind: int, weight: float = 1.0, image: Tensor | None = None
) -> ControlNetPlusPlus:
    """A copy that reads one more condition of type ``kind``; weight 0 adds none.

    image: (B, H, W, C) in 0..1, or None for the one that Apply ControlNet++ gets. ValueError naming
    the type if the network lacks it, or what else can't be.
    """
    ours = as_ours(control_net)
    _require_union(ours, kind)
    types, weights = _said(ours)
    hints = ours.union_hints or (None,) * len(types)
    if weight == 0.0:
        if not types:  # remembered, for a union network of no condition at all is no control
            _say(ours, [kind], [0.0])
        return ours
    if image is not None:
        require_image(image, ours, NODE)
    types, weights = [*types, kind], [*weights, weight]
    hints = (*hints, None if image is None else image.movedim(-1, 1))
    plain = len(types) == 1 and weight == 1.0 and image is None
    if not plain and not isinstance(ours.control_model, HostedNetwork):
        raise ValueError(
            f"{NODE}: this union network comes from another loader, which reads one condition "
            "without a weight or an image of its own. Load its file with Load ControlNet++."
        )
    _say(ours, types, weights)
    return ours.with_union_hints(() if plain else hints)


def _require_union(control: ControlNetPlusPlus, kind: int) -> None:
    """ValueError if the control has no union network of ours or the host's, or lacks the type."""
    known = control.config.union_types if control.config is not None else None
    if known is None and getattr(control.control_model, "num_union_modes", 0):
        raise ValueError(
            f"{NODE}: this union network is none of Stable Diffusion's, its types have other "
            "numbers. Use ComfyUI's own node Set Union ControlNet Type for it."
        )
    if known is None:
        raise ValueError(
            f"{NODE}: control_net is no union network, it reads one kind of condition. Load a "
            "union or ProMax file in Load ControlNet++, or take this node out."
        )
    require_types((kind,), known)


def _said(control: host.ControlBase) -> tuple[Sequence[int], Sequence[float]]:
    """Types that a control has been told to read, and their weights."""
    types: Any = control.extra_args.get(TYPES, ())
    weights: Any = control.extra_args.get(WEIGHTS, [1.0] * len(types))
    return (types, weights) if any(weights) else ((), ())


def _say(control: host.ControlBase, types: list[int], weights: list[float]) -> None:
    control.set_extra_arg(TYPES, types)
    control.extra_args.pop(WEIGHTS, None)
    if any(weight != 1.0 for weight in weights):
        control.set_extra_arg(WEIGHTS, weights)
