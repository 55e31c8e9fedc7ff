"""Menu group "control": what a control costs."""

from __future__ import annotations

from comfy_api.latest import io

from ...cnpp_core.control.reuse import ReusePolicy
from ...cnpp_core.control.shape import ControlSpeed
from ..host.control.control import as_ours
from ..host.control.speed import require_controlnet
from ..schema import schema
from .shape import GROUP, control_input, control_output


class ControlSpeedNode(io.ComfyNode):
    """Control Speed: reuse, lazy computing; the switches need a ControlNet for SD1.5 to SDXL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ControlSpeed",
            "Control Speed",
            GROUP,
            "Asks the ControlNet at some steps only, and uses its answer in between. This saves "
            "most of its cost, for its answer changes little from step to step.",
            [
                control_input(),
                io.Int.Input(
                    "reuse_every",
                    default=4,
                    min=1,
                    max=50,
                    tooltip="Ask the ControlNet at every so many steps and use its answer in "
                    "between. 1: at each step.",
                ),
                io.Int.Input(
                    "fresh_steps",
                    default=1,
                    min=0,
                    max=100,
                    tooltip="At the beginning, where the layout is decided, ask at each of so many "
                    "steps.",
                ),
                io.Float.Input(
                    "max_drift",
                    default=0.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="Ask anew as soon as the noisy picture has changed by more than this "
                    "since the last answer (relative, 0.3 = 30 %). 0: don't look.",
                ),
                io.Boolean.Input(
                    "lazy",
                    default=True,
                    tooltip="Compute when the UNet asks, so that step caches (EasyCache and "
                    "others) save the ControlNet too.",
                ),
                io.Boolean.Input(
                    "overlap",
                    default=False,
                    tooltip="CUDA: compute beside the first half of the UNet. Needs room for both.",
                ),
                io.Boolean.Input(
                    "channels_last",
                    default=False,
                    tooltip="Another memory layout; faster on some GPUs. Changes the last digits.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=False,
                    tooltip="torch.compile: a minute once, faster after. Changes the last digits.",
                ),
            ],
            [control_output()],
            aliases=("controlnet cache", "faster controlnet", "skip steps"),
        )

    @classmethod
    def execute(
        cls,
        control_net,
        reuse_every,
        fresh_steps,
        max_drift,
        lazy,
        overlap,
        channels_last,
        compile,
    ) -> io.NodeOutput:
        ours = as_ours(control_net)
        switches = {"overlap": overlap, "channels_last": channels_last, "compile": compile}
        for name in (name for name, on in switches.items() if on):
            require_controlnet(ours.inner, name)
        speed = ControlSpeed(
            reuse=ReusePolicy(reuse_every, fresh_steps, max_drift or None),
            lazy=lazy,
            overlap=overlap,
            channels_last=channels_last,
            compiled=compile,
        )
        return io.NodeOutput(ours.shaped(speed=speed))


NODES = [ControlSpeedNode]
