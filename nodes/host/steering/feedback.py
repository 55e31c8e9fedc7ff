"""Consistency Feedback in the host: looks at each x0, and moves the control that carries its name.

What a sampling learns lives in a run of its own and in the transformer options of that sampling, so
two queued runs are equal and nothing has to be undone after an interrupt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from comfy import controlnet as host
from torch import Tensor

from ....cnpp_core.consistency.agreement.measure import Measure
from ....cnpp_core.consistency.check import CheckResult
from ....cnpp_core.consistency.steering.feedback import Feedback, FeedbackSettings
from ..control.control import ControlNetPlusPlus, as_ours
from ..control.factors import LiveFactors
from .sampling import Moment, steered
from .x0 import X0Decoder

KEY = "cnpp_feedback"
NODE = "Consistency Feedback"
NOT_CONNECTED = (
    f"{NODE}: its control never reached the sampler, so there is nothing to move. "
    "Connect the output control_net of this node to Apply ControlNet++, both outputs of that node "
    "to the sampler, and leave its strength above 0; or take this node out."
)

# Pictures (B, 3, H, W) in 0..1 -> how well they follow.
Check = Callable[[Tensor], CheckResult]


class FeedbackRecord:
    """Numbers of the last sampling, for the plot. planned: its steps, 0 if nobody knows them."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.feedback: Feedback | None = None
        self.planned = 0


@dataclass(frozen=True, eq=False)
class FeedbackLoop:
    """One loop: a decoder for x0, a check of its pictures, and how the strength answers.

    patchers: models that the check runs.
    """

    decoder: X0Decoder
    check: Check
    measure: Measure
    settings: FeedbackSettings
    patchers: Sequence[Any] = ()

    def attached_to(
        self, model: Any, control_net: host.ControlBase
    ) -> tuple[Any, ControlNetPlusPlus, FeedbackRecord]:
        """Copies of a ModelPatcher and of a control of any loader that know each other.

        ValueError if the VAE does not belong to the model.
        """
        self.decoder.require_latents_of(model)
        name = uuid4().hex
        record = FeedbackRecord(self.measure)
        ours = as_ours(control_net)
        ours = ours.shaped(feedback=(*ours.shape.feedback, name))

        def begin(guider: Any) -> FeedbackRun:
            return FeedbackRun(self, name, guider, record)

        watched = steered(model, KEY, begin, self.settings.window)
        self.decoder.loaded_with(watched, f"{KEY}_{name}", self.patchers)
        return watched, ours, record


class FeedbackRun:
    """One sampling under feedback. ValueError if no control of this name takes part."""

    def __init__(self, loop: FeedbackLoop, name: str, guider: Any, record: FeedbackRecord) -> None:
        self._loop, self._record = loop, record
        self._feedback = Feedback(loop.settings, loop.measure.higher_is_better)
        record.feedback, record.planned = self._feedback, 0
        self._live = LiveFactors()
        self._live.publish(name, guider.model_options)
        self._connected = _is_connected(name, guider)
        if self._connected is False:
            raise ValueError(NOT_CONNECTED)
        self._last: int | None = None

    def look(self, moment: Moment) -> Tensor:
        """Score the picture as it would be now, and set the strength of what follows.

        Returns x0 (B, C, H, W) as it came.
        """
        # Some samplers call the model twice in a step.
        if moment.step == self._last or not self._loop.settings.window.acts(
            moment.percent, moment.step
        ):
            return moment.x0
        self._last = moment.step
        if not (self._connected or self._live.asked):
            raise ValueError(NOT_CONNECTED)
        planned = moment.options.get("transformer_options", {}).get("sample_sigmas")
        self._record.planned = 0 if planned is None else len(planned) - 1
        pictures = self._loop.decoder.pictures(moment.shown(moment.x0), moment.model)
        found = self._loop.check(pictures)
        self._feedback.look(moment.step, moment.percent, found.per_image)
        self._live.values = self._feedback.factors
        return moment.x0


def _is_connected(name: str, guider: Any) -> bool | None:
    """Whether a prompt carries a control of this name; None where only the sampling can tell."""
    conds = getattr(guider, "conds", None)
    if not isinstance(conds, dict):
        return None
    open_question = False
    for control in _controls(conds):
        if name in getattr(getattr(control, "shape", None), "feedback", ()):
            return True
        # A control class of another pack may hold ours inside.
        ours_or_hosts = isinstance(control, ControlNetPlusPlus)
        open_question |= not (ours_or_hosts or type(control).__module__ == host.__name__)
    return None if open_question else False


def _controls(conds: dict[str, list[dict[str, Any]]]) -> Iterator[Any]:
    """Every control of every prompt, the chained ones as well."""
    for prompt in (prompt for side in conds.values() for prompt in side or ()):
        control = prompt.get("control")
        while control is not None:
            yield control
            control = getattr(control, "previous_controlnet", None)
