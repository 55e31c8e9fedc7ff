"""From a picture to its condition image, one file per kind of condition.

An annotator is a callable on RGB pictures (B, 3, H, W) in 0..1 that returns (B, 1 or 3, H, W) in
0..1. Nothing here knows the host or `cnpp_core`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from .canny import canny_cnpp

Annotator = Callable[[Tensor], Tensor]

# The annotator that a consistency check uses where the user connected none.
BY_CONDITION: Mapping[str, Annotator] = {"canny": canny_cnpp}
