"""Residuals at the size of the features that they meet.

Deep Shrink and its like change the size of a UNet's features while it encodes, after its control
was computed; the host then logs each residual that does not fit, and drops it. What is wanted here
is known only inside the UNet, so a wrapper around its call sees the features go by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .lists import KEYS, LazyLists, Lists

KEY = "cnpp_fitted_control"
SKIP, ONWARD = "input_block_patch", "input_block_patch_after_skip"


def fit_to_features(options: dict[str, Any]) -> None:
    """Have the UNet look at its features in this call.

    options: the call's own transformer options; what lies in them may be others' and is left alone.
    """
    wrappers = options.get("wrappers", {})
    # In front of the others, which then see the control that the UNet gets.
    of_unets = {KEY: [_fitted], **wrappers.get(WrappersMP.DIFFUSION_MODEL, {})}
    options["wrappers"] = {**wrappers, WrappersMP.DIFFUSION_MODEL: of_unets}


def _fitted(
    forward: Any,
    x: Tensor,
    timesteps: Any = None,
    context: Any = None,
    y: Any = None,
    control: Lists | None = None,
    transformer_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Around one call of the UNet."""
    options = {} if transformer_options is None else transformer_options
    if control is not None:
        seen = Features(control)
        patches = options.get("patches", {})
        skips = [seen.see_input, *patches.get(SKIP, ()), seen.see_skip]
        onward = [*patches.get(ONWARD, ()), seen.see_onward]
        options = {**options, "patches": {**patches, SKIP: skips, ONWARD: onward}}
        control = LazyLists(seen.fitted, seen.inputs)
    return forward(x, timesteps, context, y, control, options, **kwargs)


class Features:
    """Sees the features of one call of a UNet, and brings its control to their sizes."""

    def __init__(self, control: Lists) -> None:
        self._control = control
        self.inputs = list(control["input"]) if "input" in control else []
        self._waiting = list(self.inputs)
        self._skips: list[tuple[int, int]] = []  # sizes, shallow to deep
        self._middle: tuple[int, int] | None = None

    def see_input(self, h: Tensor, _options: Any) -> Tensor:
        """Behind an input block, where an adapter's residual has been added if it fits."""
        residual = self._waiting.pop() if self._waiting else None
        if residual is not None and residual.shape[-2:] != h.shape[-2:]:
            raise ValueError(
                "A node changes the size of the model's features (Deep Shrink or such: "
                f"{_size(residual)} became {_size(h)}), and a T2I adapter acts before that can be "
                "known. Bypass that node, or use a ControlNet."
            )
        return h

    def see_skip(self, h: Tensor, _options: Any) -> Tensor:
        """Where a skip connection is kept."""
        self._skips.append((h.shape[-2], h.shape[-1]))
        return h

    def see_onward(self, h: Tensor, _options: Any) -> Tensor:
        """What goes on to the next block, in the end to the middle one, which keeps its size."""
        self._middle = (h.shape[-2], h.shape[-1])
        return h

    def fitted(self) -> Lists:
        """All lists, once the UNet has encoded."""
        lists = {key: list(self._control[key]) for key in KEYS if key in self._control}
        for i in range(1, min(len(self._skips), len(lists.get("output", ()))) + 1):
            lists["output"][-i] = _resized(lists["output"][-i], self._skips[-i])
        lists["middle"] = [_resized(block, self._middle) for block in lists.get("middle", ())]
        return lists


def _resized(residual: Tensor | None, size: tuple[int, int] | None) -> Tensor | None:
    """Each pixel the mean of what it covers."""
    if residual is None or size is None or tuple(residual.shape[-2:]) == size:
        return residual
    return F.interpolate(residual, size=size, mode="area")


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]} x {tensor.shape[-2]}"
