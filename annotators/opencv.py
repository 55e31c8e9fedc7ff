"""OpenCV, imported where it is needed, so that the rest of the pack works where it is missing."""

from __future__ import annotations

from types import ModuleType


def load_cv2() -> ModuleType:
    """The `cv2` module; RuntimeError saying how to install it."""
    try:
        import cv2
    except ImportError as error:
        raise RuntimeError(
            f"OpenCV could not be imported ({error}). This step needs it: run "
            "`pip install opencv-python` with the Python that runs ComfyUI and restart, or choose "
            "the Canny mode 'ControlNet++' at resolution 0, which works without it."
        ) from error
    return cv2
