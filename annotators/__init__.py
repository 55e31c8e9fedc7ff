"""From a picture to its condition image, one file per kind of condition.

Nothing here knows the host. Of `cnpp_core`, `weights` uses the safe file reader and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

from .annotator import Annotator
from .canny import canny_cnpp

# The annotator that a consistency check uses where the user connected none.
BY_CONDITION: Mapping[str, Annotator] = {"canny": canny_cnpp}
