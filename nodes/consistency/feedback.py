"""Menu group "consistency", steering: control as strong as the picture so far needs it."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ...cnpp_core.consistency.check import CheckResult
from ...cnpp_core.consistency.steering.feedback import FeedbackSettings, summary, table, unit_of
from ...cnpp_core.consistency.steering.window import SteeringWindow
from ...pictures.feedback_plot import plot
from ..host.steering.feedback import NODE, FeedbackLoop, FeedbackRecord
from ..host.steering.x0 import X0Decoder
from ..schema import percent_input, schema, show_text
from .inputs import GROUP, annotator_input, finder_for, finder_inputs, mask_input

FeedbackType = io.Custom("FEEDBACK")
DEFAULTS = FeedbackSettings()


class ConsistencyFeedbackNode(io.ComfyNode):
    """Consistency Feedback: changed copies of model and control that share one feedback loop."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ConsistencyFeedback",
            "Consistency Feedback",
            GROUP,
            "Moves the strength of a control, picture by picture, by the score of the picture so "
            "far. Below the target it gets stronger, above it weaker. No gradients: any annotator "
            "will do.",
            [
                io.Model.Input("model", tooltip="On its way to the sampler."),
                io.ControlNet.Input(
                    "control_net",
                    tooltip="The control whose strength is moved, on its way to Apply "
                    "ControlNet++. A control of any loader.",
                ),
                io.Vae.Input(
                    "vae",
                    tooltip="Decodes the picture so far. A tiny one (TAESD, from Load VAE) costs "
                    "least.",
                ),
                io.Image.Input(
                    "condition",
                    tooltip="The control image that goes into Apply ControlNet++: one for all "
                    "pictures, or one for each.",
                ),
                *finder_inputs(),
                io.Float.Input(
                    "target",
                    default=DEFAULTS.target,
                    min=0.0,
                    max=255.0,
                    step=0.01,
                    tooltip="The score to reach, as Cycle-Consistency Check gives it: there the "
                    "strength stays as set in Apply. 1 is perfect; for depth (RMSE) and normal "
                    "(degrees), where lower is better, 0 is.",
                ),
                io.Float.Input(
                    "gain",
                    default=DEFAULTS.gain,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Each look adds gain * (target - score) to the factor of the strength, "
                    "which begins at 1; for depth and normal it is gain * (score - target) / 100. "
                    "0 only measures.",
                ),
                io.Float.Input(
                    "memory",
                    default=DEFAULTS.memory,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of a correction is kept for the next look. 1: corrections "
                    "add up until the target is met. 0: the factor answers the latest score "
                    "alone; take a gain of 2 or so then.",
                ),
                io.Float.Input(
                    "min_factor",
                    default=DEFAULTS.low,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="The strength is multiplied with no less than this.",
                ),
                io.Float.Input(
                    "max_factor",
                    default=DEFAULTS.high,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="The strength is multiplied with no more than this.",
                ),
                percent_input(
                    "start_percent",
                    DEFAULTS.window.start,
                    "Where in the sampling feedback begins. Before, the strength is as "
                    "set in Apply.",
                    step=0.01,
                ),
                percent_input(
                    "end_percent",
                    DEFAULTS.window.end,
                    "Where it ends. Behind, the strength stays as it was last.",
                    step=0.01,
                ),
                io.Int.Input(
                    "every",
                    default=DEFAULTS.window.every,
                    min=1,
                    max=100,
                    tooltip="Score every so many steps. Each time costs a decode and a check.",
                ),
                mask_input("Score only where this is white; all over if not connected."),
                annotator_input(),
            ],
            [
                io.Model.Output(
                    "watched",
                    display_name="model",
                    tooltip="A copy that looks at its pictures. Connect it to one sampler only.",
                ),
                io.ControlNet.Output(
                    "moved",
                    display_name="control_net",
                    tooltip="A copy whose strength follows. Connect it to Apply ControlNet++.",
                ),
                FeedbackType.Output(
                    "feedback",
                    tooltip="The numbers, for Consistency Feedback Plot behind the sampler.",
                ),
            ],
            aliases=("closed loop", "adaptive strength", "controlnet strength", "adherence"),
        )

    @classmethod
    def execute(
        cls,
        model,
        control_net,
        vae,
        condition,
        kind: str,
        tolerance: int,
        target: float,
        gain: float,
        memory: float,
        min_factor: float,
        max_factor: float,
        start_percent: float,
        end_percent: float,
        every: int,
        mask=None,
        annotator=None,
    ) -> io.NodeOutput:
        finder = finder_for(NODE, kind, tolerance, annotator)
        window = SteeringWindow(start_percent, end_percent, every)
        unit = unit_of(finder.measure)
        settings = FeedbackSettings(target, gain, min_factor, max_factor, window, unit, memory)
        finder.measure.read(condition.movedim(-1, 1))  # refused here if it is of another kind

        def check(pictures: Tensor) -> CheckResult:
            return finder.check(pictures.movedim(1, -1), condition, mask)

        decoder = X0Decoder(vae, NODE)
        loop = FeedbackLoop(decoder, check, finder.measure, settings, finder.annotator.patchers)
        return io.NodeOutput(*loop.attached_to(model, control_net))


class ConsistencyFeedbackPlot(io.ComfyNode):
    """Consistency Feedback Plot: reads the record once `latent` is there, so after the sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ConsistencyFeedbackPlot",
            "Consistency Feedback Plot",
            GROUP,
            "Shows what Consistency Feedback did: score and factor of each picture over the steps. "
            "The factor is what the strength of the control was multiplied by.",
            [
                FeedbackType.Input("feedback", tooltip="From Consistency Feedback."),
                io.Latent.Input(
                    "latent",
                    tooltip="From the sampler whose model is watched, so that this node comes "
                    "after it.",
                ),
            ],
            [
                io.Image.Output(
                    "plot",
                    tooltip="Steps from left to right; above the scores and their target, below "
                    "the factors. A line for each picture of the batch.",
                ),
                io.String.Output("numbers", tooltip="Scores and factors of every step looked at."),
            ],
            aliases=("closed loop", "adaptive strength", "curve", "adherence"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, feedback: FeedbackRecord, latent) -> io.NodeOutput:
        looks, measure = feedback.feedback, feedback.measure
        if looks is None or not looks.steps:
            raise ValueError(
                "Consistency Feedback Plot: nothing was measured. Connect the model of "
                "Consistency Feedback to the sampler whose latent comes in here, and leave at "
                "least one of its steps between start_percent and end_percent. If all that is so, "
                "the sampler did not run because its result was known: change its seed."
            )
        picture = plot(looks, measure, feedback.planned).movedim(1, -1).contiguous()
        shown = ui.PreviewImage(picture, cls=cls).as_dict()
        shown |= show_text(cls, summary(looks, measure))
        return io.NodeOutput(picture, table(looks, measure), ui=shown)


NODES = [ConsistencyFeedbackNode, ConsistencyFeedbackPlot]
