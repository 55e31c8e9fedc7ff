"""OpenCV, imported where it is needed, so that the rest of the pack works where it is missing."""

from __future__ import annotations

import importlib.util
import logging
from types import ModuleType

log = logging.getLogger(__name__)
INSTALL = "`pip install opencv-python` with the Python that runs ComfyUI and restart"


def note_if_missing() -> None:
    """One line in the log where OpenCV is not installed, before somebody meets it in a graph."""
    if importlib.util.find_spec("cv2") is None:
        log.warning(
            "OpenCV is not installed: the demo model, the annotate nodes and the templates without "
            "downloads need it. Run %s.",
            INSTALL,
        )


def load_cv2() -> ModuleType:
    """The `cv2` module; RuntimeError saying how to install it."""
    try:
        import cv2
    except ImportError as error:
        raise RuntimeError(
            f"OpenCV could not be imported ({error}). This step needs it: run {INSTALL}, or choose "
            "the Canny mode 'ControlNet++' at resolution 0, which works without it."
        ) from error
    return cv2
