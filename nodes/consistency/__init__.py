"""Menu group "consistency": does the picture follow the condition, and how can it be made to."""

from __future__ import annotations

from . import check, feedback, guidance, select

NODES = [*check.NODES, *select.NODES, *guidance.NODES, *feedback.NODES]
