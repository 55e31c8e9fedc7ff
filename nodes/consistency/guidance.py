"""Menu group "consistency": the picture is steered towards its condition while it is sampled."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ...cnpp_core.consistency.steering.guidance import GuidanceSettings
from ...cnpp_core.consistency.steering.reward import Reward
from ...cnpp_core.consistency.steering.window import SteeringWindow
from ..host.steering.guidance import NODE, ConsistencyGuidance
from ..host.steering.through import FullConsistencyGuidance
from ..host.steering.x0 import X0Decoder
from ..schema import percent_input, schema
from .inputs import GROUP, Finder, annotator_input, finder_for, finder_inputs, mask_input

DEFAULTS = GuidanceSettings()


class ConsistencyGuidanceNode(io.ComfyNode):
    """Consistency Guidance: a changed copy of the model; the same one where it would never act."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        kind, *_ = finder_inputs()
        return schema(
            "CNPP_ConsistencyGuidance",
            "Consistency Guidance",
            GROUP,
            "Moves the picture itself, step by step, to where it follows its condition better. At "
            "each step, what the picture would be is decoded, the condition is found in it, and "
            "the gradient of the difference says where to. With or without a ControlNet.",
            [
                io.Model.Input("model", tooltip="On its way to the sampler; any sampler will do."),
                io.Vae.Input(
                    "vae",
                    tooltip="The VAE of the model, or its tiny decoder (taesd in Load VAE): a "
                    "tenth of the time and memory, and good enough to be steered by.",
                ),
                io.Image.Input(
                    "condition",
                    tooltip="The control image that the picture shall follow, of the picture's "
                    "shape: one for all pictures, or one for each.",
                ),
                kind,
                io.Float.Input(
                    "strength",
                    default=DEFAULTS.strength,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How far to go at each step: 1 as far as would bring the error to zero "
                    "if it fell evenly. 0: the model comes out untouched.",
                ),
                percent_input(
                    "start_percent",
                    DEFAULTS.window.start,
                    "From where in the sampling. From the start is best on the demo model; "
                    "0.8 is the window that ControlNet++ was trained in (t <= 200).",
                    step=0.01,
                ),
                percent_input(
                    "end_percent", DEFAULTS.window.end, "Until where in the sampling.", step=0.01
                ),
                io.Int.Input(
                    "every",
                    default=DEFAULTS.window.every,
                    min=1,
                    max=100,
                    tooltip="Act at every so many steps only. 1 follows the condition most closely "
                    "and costs most.",
                ),
                io.Float.Input(
                    "bound",
                    default=DEFAULTS.bound,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="The largest change of one step, as a root mean square; the latents of "
                    "a picture have about 1. Lower it if pictures get patterns or odd colours.",
                ),
                io.Boolean.Input(
                    "full_gradient",
                    default=False,
                    tooltip="For experts: take the gradient through the UNet and the ControlNet as "
                    "well. A step that acts then takes about 2.1 times as long as one without "
                    "guidance, not 1.25 (demo model), and memory holds the features of every layer "
                    "of the model.",
                ),
                mask_input("Follow the condition only where this is white; all over if not given."),
                annotator_input(),
            ],
            [
                io.Model.Output(
                    "guided",
                    display_name="model",
                    tooltip="A copy that is guided, for the sampler. The model that came in stays "
                    "as it is.",
                )
            ],
            aliases=("reward guidance", "universal guidance", "mpgd", "adherence", "steer"),
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        condition,
        kind: str,
        strength: float,
        start_percent: float,
        end_percent: float,
        every: int,
        bound: float,
        full_gradient: bool,
        mask=None,
        annotator=None,
    ) -> io.NodeOutput:
        window = SteeringWindow(start_percent, end_percent, every)
        settings = GuidanceSettings(strength, bound, window)
        if settings_never_act(settings):
            return io.NodeOutput(model)
        finder = finder_for(NODE, kind, 0, annotator)
        reward = reward_for(finder, condition, mask)
        size = condition.shape[1], condition.shape[2]
        kind_of_guidance = FullConsistencyGuidance if full_gradient else ConsistencyGuidance
        decoder = X0Decoder(vae, NODE, gradients=True)
        guidance = kind_of_guidance(decoder, finder.annotator, reward, settings, size)
        return io.NodeOutput(guidance.attached_to(model))


def settings_never_act(settings: GuidanceSettings) -> bool:
    """Whether a picture comes out as it went in, so that nothing needs to be looked at."""
    return 0 in (settings.strength, settings.bound) or settings.window.start == settings.window.end


def reward_for(finder: Finder, condition: Tensor, mask: Tensor | None) -> Reward:
    """What to follow, of IMAGE (N, H, W, 3) and MASK (N, H, W); ValueError for what can't be."""
    annotator = finder.annotator
    if annotator.ways.soft is None:
        raise ValueError(
            f"{NODE}: the annotator for {annotator.title} has no "
            "differentiable map, so there is no direction to steer in. Connect another annotator "
            "(Scribble has one with method HED), or steer without gradients: Consistency Feedback."
        )
    if condition.ndim != 4 or condition.shape[-1] not in (1, 3) or 0 in condition.shape:
        raise ValueError(
            f"{NODE}: condition has shape {tuple(condition.shape)}; a batch of pictures "
            "(B, H, W, 3) was expected. Remove an alpha channel, convert a mask with Mask to Image."
        )
    if not torch.isfinite(condition).all():
        raise ValueError(
            f"{NODE}: condition contains NaN or infinite values; look at the node that made it."
        )
    inside = None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:])
    image = condition.movedim(-1, 1)
    try:
        loss = finder.condition.value.guidance
        return Reward.of(annotator.guidance_map, loss, finder.measure, image, inside)
    except ValueError as error:
        raise ValueError(f"{NODE}: {error}") from error


NODES = [ConsistencyGuidanceNode]
