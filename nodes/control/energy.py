"""Menu group "control": what each slider of a control does inside the UNet."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ...pictures.energy_map import heat_map
from ..host.control.energy import EnergyRecorder
from ..schema import schema, show_text

GROUP = "control"
EnergyType = io.Custom("RESIDUAL_ENERGY")


class ResidualEnergy(io.ComfyNode):
    """Residual Energy: a changed copy of the model that measures, and the record it fills."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ResidualEnergy",
            "Residual Energy",
            GROUP,
            "Measures, while a picture is sampled, how strongly control acts on each block at each "
            "step. Residual Energy Plot shows it. The picture stays the same.",
            [
                io.Model.Input(
                    "model",
                    tooltip="An SD1.5, SD2.x or SDXL model, on its way to the sampler. Controls of "
                    "every loader are measured, together if several are chained.",
                )
            ],
            [
                io.Model.Output(
                    "watched",
                    display_name="model",
                    tooltip="A copy that measures. Connect it to one sampler only.",
                ),
                EnergyType.Output(
                    "energy", tooltip="The numbers, for Residual Energy Plot behind the sampler."
                ),
            ],
            aliases=("controlnet strength", "residual norm", "block heat map"),
        )

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        recorder = EnergyRecorder()
        return io.NodeOutput(recorder.attached_to(model), recorder)


class ResidualEnergyPlot(io.ComfyNode):
    """Residual Energy Plot: reads the record once `latent` is there, so after the sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ResidualEnergyPlot",
            "Residual Energy Plot",
            GROUP,
            "Shows what Residual Energy measured, as a heat map and as numbers. For every block "
            "and step: how large what the control added is, beside what it was added to; 0.1 is a "
            "tenth.",
            [
                EnergyType.Input("energy", tooltip="From Residual Energy."),
                io.Latent.Input(
                    "latent",
                    tooltip="From the sampler whose model is watched, so that this node comes "
                    "after it.",
                ),
                io.Float.Input(
                    "limit",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="The number that gets the brightest colour. 0: the largest of the "
                    "run. Set it to compare two pictures.",
                ),
            ],
            [
                io.Image.Output("heat_map", tooltip="Blocks from top to bottom, steps from left."),
                io.String.Output(
                    "numbers",
                    tooltip="Mean of each block, then every step, for cond and uncond rows.",
                ),
            ],
            aliases=("controlnet strength", "residual norm", "block heat map"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, energy: EnergyRecorder, latent, limit: float) -> io.NodeOutput:
        table = energy.table
        if table is None:
            raise ValueError(
                "Residual Energy Plot: nothing was measured. Connect the model of Residual Energy "
                "to the sampler whose latent comes in here. If it is connected, the sampler did "
                "not run because its result was known: change its seed."
            )
        picture = heat_map(table, limit).movedim(1, -1).contiguous()
        shown = ui.PreviewImage(picture, cls=cls).as_dict() | show_text(cls, table.summary())
        return io.NodeOutput(picture, table.text(), ui=shown)


NODES = [ResidualEnergy, ResidualEnergyPlot]
