"""A remark for an image that plainly is no condition of the kind that its control reads.

Often nobody knows that kind; then nothing is said. It is known of a union network that was told a
type, and guessed from the name of a file that Load ControlNet++ has read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from ....annotators.kinds import ADE20K
from ....cnpp_core.condition import Condition
from ....cnpp_core.misfit import kinds_named, misfit
from ....cnpp_core.network.union import UNION_TYPES
from .family import config_of
from .network import TYPES, WEIGHTS


def misfit_remark(control_net: Any, image: Tensor) -> str:
    """One sentence for what is wrong with ``image``; "" where it may be right, or nobody knows.

    image: (B, H, W, C) in 0..1, what Apply ControlNet++ gets; the first of a batch is looked at.
    """
    for kinds, picture in _read(control_net, image.movedim(-1, 1)):
        if remark := misfit(picture[0], kinds, ADE20K):
            return remark
    return ""


def _read(control: Any, image: Tensor) -> Iterator[tuple[Sequence[Condition], Tensor]]:
    """Kinds that may be meant, and the picture (B, C, H, W) that is read as one of them."""
    types = getattr(control, "extra_args", {}).get(TYPES, ())
    if not types:
        yield getattr(getattr(control, "control_model", None), "kinds", ()), image
        return
    config = config_of(control)
    if config is None or config.union_types is None:
        return  # another family's union network, whose types have other numbers
    weights = control.extra_args.get(WEIGHTS, [1.0] * len(types))
    hints = getattr(control, "union_hints", ()) or (None,) * len(types)
    for union_type, weight, hint in zip(types, weights, hints, strict=False):
        if weight and union_type < len(UNION_TYPES):
            yield kinds_named(UNION_TYPES[union_type]), image if hint is None else hint
