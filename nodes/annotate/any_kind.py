"""Menu group "annotate", any condition from one node."""

from __future__ import annotations

from comfy_api.latest import io

from ...annotators.kinds import KINDS
from ..host.annotate.annotator import NodeAnnotator, Size, annotator_of
from ..schema import schema
from .inputs import (
    GROUP,
    AnnotatorType,
    annotator_output,
    download_input,
    image_input,
    output,
    resolution_input,
    target_inputs,
)

# What the node offers -> kind and method: each kind as it is usually found, then the other ways.
CHOICES = {kind: (kind, "") for kind in KINDS} | {
    f"{kind} ({method.label})": (kind, method.name)
    for kind, row in KINDS.items()
    for method in row[1:]
}


class Annotate(io.ComfyNode):
    """Annotate (any): every method of every kind by name, with its default settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Annotate",
            "Annotate (any)",
            GROUP,
            "Any condition from one node, each with the settings that its ControlNets were "
            "trained with. Weights and licences are those of the node for that condition; pose is "
            "for NON-COMMERCIAL use only.",
            [
                image_input(),
                io.Combo.Input(
                    "condition",
                    options=list(CHOICES),
                    default="canny",
                    tooltip="What to find, in the way that its ControlNets were trained with: "
                    f"{', '.join(f'{kind} ({row[0].label})' for kind, row in KINDS.items())}. "
                    "Further down the other ways.",
                ),
                resolution_input(),
                download_input(),
                *target_inputs(),
                AnnotatorType.Input(
                    "other_annotator",
                    optional=True,
                    tooltip="An annotator to use with its own settings instead, from another node. "
                    "The settings here then mean nothing.",
                ),
            ],
            [
                io.Image.Output("condition_image", tooltip="The control image, one per picture."),
                annotator_output(),
            ],
            aliases=("preprocessor", "aio preprocessor", "control image", "hint"),
        )

    @classmethod
    def execute(
        cls,
        image,
        condition: str,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
        other_annotator: NodeAnnotator | None = None,
    ) -> io.NodeOutput:
        if other_annotator is not None:
            return output(other_annotator, image)
        size = Size(resolution, target_width, target_height)
        kind, method = CHOICES[condition]
        return output(annotator_of(kind, method, size, download=download), image)


NODES = [Annotate]
