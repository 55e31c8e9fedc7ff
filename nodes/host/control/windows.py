"""Which frames of a longer batch a call holds, as those say who sample in windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def frames_of(options: Mapping[str, Any], control: Any) -> tuple[int, ...] | None:
    """Indices of the frames in the whole batch; None where the batch is whole.

    options: the transformer options. The host's Context Windows put a frame in front of a window
    that does not begin the batch. AnimateDiff-Evolved speaks through ``ad_params``, and earlier
    through an attribute of the control.
    """
    window = options.get("context_window")
    if window is not None and getattr(window, "dim", 0) == 0:  # else over time: the batch is whole
        anchor = getattr(window, "causal_anchor_index", None)
        in_front = () if anchor is None or anchor < 0 else (anchor,)
        return (*in_front, *window.index_list)
    animated = options.get("ad_params")
    frames = getattr(control, "sub_idxs", None) if animated is None else animated.get("sub_idxs")
    return None if frames is None else tuple(frames)


def require_frames(frames: tuple[int, ...] | None, images: int) -> None:
    """ValueError if another number of pictures came than was announced."""
    if frames is not None and len(frames) != images:
        raise ValueError(
            f"The node that samples in windows of frames announces {len(frames)}, but {images} "
            "pictures came, so it is not known which hint, mask and strength is whose. Bypass that "
            "node, or the nodes that shape the control (Block Masks, Control Mode and others)."
        )
