"""Menu group "annotate": from a picture to the control image that a ControlNet reads."""

from __future__ import annotations

from ...annotators.opencv import note_if_missing
from ..host.annotate import folders
from . import any_kind, lines, poses, scene

folders.register()
note_if_missing()

NODES = [*lines.NODES, *poses.NODES, *scene.NODES, *any_kind.NODES]
