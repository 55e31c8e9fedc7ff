"""Menu group "control": put a control into conditioning, and say how strongly each block acts."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.control.apply import apply_control
from ..host.control.misfit import misfit_remark
from ..schema import BlockScalesType, percent_input, schema, show_remark

GROUP = "control"


class ApplyControlNet(io.ComfyNode):
    """Apply ControlNet++: puts a copy of the control into both conditionings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Apply",
            "Apply ControlNet++",
            GROUP,
            "Adds a control image to positive and negative conditioning, with a scale per block if "
            "you like. Without scales the result equals the built-in Apply ControlNet.",
            [
                io.Conditioning.Input("positive", tooltip="Prompt that says what you want."),
                io.Conditioning.Input("negative", tooltip="Prompt that says what you don't want."),
                io.ControlNet.Input(
                    "control_net",
                    tooltip="From Load ControlNet++, Demo Model or any other ControlNet loader. It "
                    "must be made for the family of your checkpoint (SD1.5, SD2.x, SDXL).",
                ),
                io.Image.Input(
                    "image",
                    tooltip="The control image (edges, depth, pose ...), not the photo itself. It "
                    "is scaled to the picture's size and cropped in the centre.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Strength of the whole control. 0 switches it off and costs nothing.",
                ),
                percent_input(
                    "start_percent",
                    0.0,
                    "Part of the sampling after which the control begins (0 = at once).",
                ),
                percent_input(
                    "end_percent",
                    1.0,
                    "Part of the sampling after which the control ends (1 = never). Layout "
                    "is settled in the first half, so 0.5 already keeps it.",
                ),
                BlockScalesType.Input(
                    "scales",
                    optional=True,
                    tooltip="How strongly each block of the ControlNet acts, from Block Scales, "
                    "Block Scale Preset or Scale Schedule. Not connected: all 1.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Only for ControlNets that read a latent (SD3, Flux, Qwen): the "
                    "model's VAE.",
                ),
            ],
            [
                io.Conditioning.Output(
                    "controlled_positive",
                    display_name="positive",
                    tooltip="Positive conditioning with the control, for KSampler.",
                ),
                io.Conditioning.Output(
                    "controlled_negative",
                    display_name="negative",
                    tooltip="Negative conditioning with the control, for KSampler.",
                ),
            ],
            aliases=("apply controlnet", "control net", "cn", "block weights"),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        control_net,
        image,
        strength,
        start_percent,
        end_percent,
        scales=None,
        vae=None,
    ) -> io.NodeOutput:
        window = (start_percent, end_percent)
        applied = apply_control(
            positive, negative, control_net, image, strength, window, scales=scales, vae=vae
        )
        remark = misfit_remark(control_net, image) if strength else ""
        return io.NodeOutput(*applied, ui=show_remark(cls, remark))


NODES = [ApplyControlNet]
