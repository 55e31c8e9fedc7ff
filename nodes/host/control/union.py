"""Which kinds of condition a union network reads, each from an image of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy import controlnet as host
from torch import Tensor

from ....cnpp_core.control.partial import controlnet_in
from ....cnpp_core.network.union import require_types
from .apply import require_image
from .control import ControlNetPlusPlus, as_ours
from .family import config_of
from .network import TYPES, WEIGHTS, HostedNetwork

NODE = "Union Control Type"


def with_union_type(
    control_net: host.ControlBase, kind: int, weight: float = 1.0, image: Tensor | None = None
) -> host.ControlBase:
    """A copy that reads one more condition of type ``kind``; weight 0 adds none.

    image: (B, H, W, C) in 0..1, or None for the one that Apply ControlNet++ gets. ValueError naming
    the type if the network lacks it, or what else can't be.
    """
    copy = control_net.copy()
    _require_union(copy, kind)
    types, weights = _said(copy)
    if weight == 0.0:
        if not types:  # remembered, for a union network of no condition at all is no control
            _say(copy, [kind], [0.0])
        return copy
    types, weights = [*types, kind], [*weights, weight]
    plain = len(types) == 1 and weight == 1.0 and image is None
    network = controlnet_in(getattr(copy, "control_model", None))
    if not plain and not isinstance(network, HostedNetwork):
        raise ValueError(
            f"{NODE}: this union network comes from another loader, which reads one condition "
            "without a weight or an image of its own. Load its file with Load ControlNet++."
        )
    _say(copy, types, weights)
    hints = copy.union_hints if isinstance(copy, ControlNetPlusPlus) else ()
    if image is None and not hints:
        return copy  # all of them read the same image, which the network does by itself
    if image is not None:
        require_image(image, copy, NODE)
    hints = hints or (None,) * (len(types) - 1)
    own = None if image is None else image.movedim(-1, 1)
    return as_ours(copy).with_union_hints((*hints, own))


def _require_union(control: host.ControlBase, kind: int) -> None:
    """ValueError if the control has no union network of ours or the host's, or lacks the type."""
    config, network = config_of(control), getattr(control, "control_model", None)
    known = config.union_types if config is not None else None
    if known is None and getattr(network, "num_union_modes", 0):
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
