"""What a training node shows while it trains: progress, the last held-out pictures, the score."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import comfy.utils
import torch
from comfy import model_management
from PIL import Image
from torch import Tensor

from ....cnpp_core.consistency.agreement.measure import Measure
from ....cnpp_core.training.batch import TrainingBatch
from ....cnpp_core.training.session import Session
from ....pictures.canvas import to_8_bit
from ....pictures.comparison_sheet import ComparisonSheet, SheetRow
from ....pictures.contact_sheet import Cell

PREVIEW_SIDE = 1024
SIDE = 192  # of a picture on the sheet
MOST_ROWS = 8
SECONDS = 0.5  # between two texts on the node

Tell = Callable[[str], object]


class Showing:
    """Of one training. tell: writes a text onto the node. measure: None where nothing is scored."""

    def __init__(
        self,
        node: str,
        session: Session,
        steps: int,
        tell: Tell,
        batches: Sequence[TrainingBatch],
        measure: Measure | None,
    ) -> None:
        self.node, self.session, self.steps, self.tell = node, session, steps, tell
        self.measure = measure
        hints = [batch.hint for batch in batches if batch.hint is not None]
        self.hints = [hint.cpu() for batch in hints for hint in batch][:MOST_ROWS]
        self.before: list[Tensor] = []
        self.now: list[Tensor] = []
        self.seen = 0  # the step of the last pictures
        self._bar = comfy.utils.ProgressBar(steps)
        self._told = 0.0

    def stop_if_interrupted(self) -> None:
        model_management.throw_exception_if_processing_interrupted()

    def on_step(self, step: int, loss: float) -> None:
        """Progress; raises where the user has pressed Cancel."""
        self._bar.update_absolute(step, self.steps)
        if step == self.steps or time.monotonic() - self._told > SECONDS:
            self._told = time.monotonic()
            self.tell("\n".join([f"{self._at(step)}, loss {loss:.4g}", *self.score_lines()]))
        self.stop_if_interrupted()

    def on_pictures(self, step: int, pictures: list[Tensor], _score: float | None) -> None:
        """The pictures of a validation, as a preview on the node."""
        shown = [picture.float().cpu() for batch in pictures for picture in batch][:MOST_ROWS]
        self.before = self.before or (shown if step == 0 else [])
        self.now, self.seen = shown, step
        sheet = (self.sheet()[0] * 255).round().byte().numpy()
        preview = ("JPEG", Image.fromarray(sheet), PREVIEW_SIDE)
        self._bar.update_absolute(step, self.steps, preview)
        self.stop_if_interrupted()

    def score_lines(self) -> list[str]:
        """How the score stands, and how it was before; nothing where there is none yet."""
        scores = self.session.scores
        if self.measure is None or not scores:
            return []
        first, last = min(scores), max(scores)
        better = "higher" if self.measure.higher_is_better else "lower"
        now = f"score {self.measure.text(scores[last])}"
        then = f", {self.measure.text(scores[first])} before" if last > first else " before"
        return [f"{now}{then} ({self.measure.name}, {better} is better)"]

    def sheet(self) -> Tensor:
        """Held-out conditions with the pictures drawn from them before and now, IMAGE (1, H, W, 3).

        Black if nothing was drawn.
        """
        if not self.now:
            return torch.zeros(1, 64, 64, 3)
        columns = [("condition",), ("before",), (f"step {self.seen}",)]
        lists = [[_readable(hint) for hint in self.hints], self.before, self.now]
        if not self.before or self.seen == 0:
            columns, lists = [columns[0], columns[2]], [lists[0], lists[2]]
        rows = [
            SheetRow("", [Cell(to_8_bit(picture)) for picture in row])
            for row in zip(*lists, strict=True)
        ]
        drawn = ComparisonSheet(self.node, self.score_lines(), columns, rows).draw(SIDE)
        return drawn.tensor().movedim(1, -1)

    def _at(self, step: int) -> str:
        return f"{self.node}: step {step:,} of {self.steps:,}"


def _readable(hint: Tensor) -> Tensor:
    """A hint of any channels as a picture of three, or of one."""
    return hint[:3] if len(hint) >= 3 else hint[:1]
