"""Which kinds of condition a union network reads, each from an image of its own."""

from __future__ import annotations

from typing import Any

from comfy import controlnet as host
from torch import Tensor

from ....cnpp_core.network.union import require_types
from .apply import require_image
from .control import ControlNetPlusPlus, as_ours
from .network import HostedNetwork

NODE = "Union Control Type"
TYPES, WEIGHTS = "control_type", "control_weights"  # extra arguments of the networks


def with_union_type(
    control_net: host.ControlBase, kind: int, weight: float = 1.0, image: Tensor | None = None
) -> ControlNetPlusPlus:
    """A copy that reads one more condition of type ``kind``; weight 0 adds none.

    image: (B, H, W, C) in 0..1, or None for the one that Apply ControlNet++ gets. ValueError naming
    the type if the network lacks it, or what else can't be.
    """
    ours = as_ours(control_net)
    known = ours.config.union_types if ours.config is not None else None
    if known is None and getattr(ours.control_model, "num_union_modes", 0):
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
    if weight == 0.0:
        ours.says_nothing = TYPES not in ours.inner.extra_args
        return ours
    ours.says_nothing = False
    types = [*ours.inner.extra_args.get(TYPES, ()), kind]
    weights = [*ours.inner.extra_args.get(WEIGHTS, [1.0] * (len(types) - 1)), weight]
    if image is not None:
        require_image(image, ours, NODE)
    hints = (*_hints(ours, len(types) - 1), None if image is None else image.movedim(-1, 1))
    plain = len(types) == 1 and weight == 1.0 and image is None
    if not plain and not isinstance(ours.control_model, HostedNetwork):
        raise ValueError(
            f"{NODE}: this union network comes from another loader, which reads one condition "
            "without a weight or an image of its own. Load its file with Load ControlNet++."
        )
    ours.set_extra_arg(TYPES, types)
    if any(w != 1.0 for w in weights):
        ours.set_extra_arg(WEIGHTS, weights)
    ours.union_hints = () if plain else hints
    return ours


def _hints(control: ControlNetPlusPlus, count: int) -> tuple[Any, ...]:
    return control.union_hints or (None,) * count
