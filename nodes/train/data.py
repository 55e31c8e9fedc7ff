"""Menu group "train": pictures, captions and conditions, encoded once."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..annotate.inputs import AnnotatorType
from ..consistency.inputs import CHOICES, finder_for
from ..host.annotate.annotator import NodeAnnotator
from ..host.annotate.finder import Finder
from ..host.train.data import NODE
from ..host.train.making import LISTS, SOURCES, Choices, Lists, folder_stamp, make_data
from ..schema import schema, show_text
from .inputs import GROUP, TrainingDataType

OTHER = "other"


class ControlNetTrainingData(io.ComfyNode):
    """ControlNet Training Data: records of a folder, of lists, or of the demo's world."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ControlNetTrainingData",
            NODE,
            GROUP,
            "Pictures, captions and conditions for Train ControlNet, encoded once. From a folder, "
            "from lists of other nodes, or drawn by the demo model's world. Some are held out to "
            "see how well the ControlNet is followed.",
            [
                io.Clip.Input("clip", tooltip="The model's text encoder."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The model's VAE: it encodes the pictures, and decodes those that show "
                    "the course of a training. Only latents do without it.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="source lists: the pictures, e.g. of Load Image-Text Dataset from "
                    "Folder.",
                ),
                io.Image.Input(
                    "conditions",
                    optional=True,
                    tooltip="source lists: a condition image for each picture, in the same order. "
                    "Not connected: they are found in the pictures.",
                ),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="source lists: latents in place of images, of Make Training Dataset.",
                ),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="source lists: a prompt for each latent, of Make Training Dataset.",
                ),
                AnnotatorType.Input(
                    "annotator",
                    optional=True,
                    tooltip="Finds the conditions where none are given, and again in the pictures "
                    "that show the course of a training. Without one, kinds that need no network "
                    "are found with default settings.",
                ),
                io.Combo.Input(
                    "source",
                    options=list(SOURCES),
                    default=SOURCES[0],
                    tooltip="Where the pictures come from. demo world: scenes for Demo Model, to "
                    "try a training out.",
                ),
                io.String.Input(
                    "folder",
                    default="",
                    tooltip="source folder: NAME.png with its caption in NAME.txt, or a folder "
                    "with prompt.json as fill50k has it. A path, or a name in ComfyUI's input "
                    "folder.",
                ),
                io.String.Input(
                    "conditions_folder",
                    default="",
                    tooltip="source folder: conditions, each of its picture's NAME. Empty: they "
                    "are found in the pictures.",
                ),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    tooltip="source lists: a caption for each picture, one in a line; or connect "
                    "the list of texts.",
                ),
                io.Combo.Input(
                    "kind",
                    options=[*CHOICES, OTHER],
                    default=next(iter(CHOICES)),
                    tooltip="What the conditions are. other: none of these; then there is no "
                    "score, only pictures.",
                ),
                io.Int.Input(
                    "tolerance",
                    default=0,
                    min=0,
                    max=16,
                    tooltip="For the score: how many pixels an edge, line or joint may be off.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=2048,
                    step=64,
                    tooltip="Pictures are trained on at about this squared, in buckets of their "
                    "aspect. 512 for SD1.5, 1024 for SDXL. The demo world is always 128.",
                ),
                io.Int.Input(
                    "pictures",
                    default=256,
                    min=1,
                    max=100000,
                    tooltip="source demo world: how many scenes to draw.",
                ),
                io.Int.Input(
                    "held_out",
                    default=4,
                    min=0,
                    max=64,
                    tooltip="Pictures that are not trained on: the ControlNet draws them anew to "
                    "show how well it is followed. 0: nothing is shown.",
                ),
                io.Float.Input(
                    "drop_text",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Part of the captions that are left out, so that the condition has to "
                    "say it. 0.5 as published.",
                ),
                io.Boolean.Input(
                    "mirror",
                    default=False,
                    tooltip="Half of the pictures mirrored. Not for poses, normal maps, or where "
                    "captions say left and right.",
                ),
                io.Boolean.Input(
                    "vary_thresholds",
                    default=False,
                    tooltip="For canny that is found here: thresholds of its own at every look, "
                    "as the published ControlNet was trained.",
                ),
                io.Boolean.Input(
                    "skip_bad",
                    default=False,
                    tooltip="Leave out what can't be used, and say so. Off: the first bad record "
                    "stops.",
                ),
                io.Boolean.Input(
                    "cache_on_disk",
                    default=False,
                    tooltip="Keep what was encoded in output/controlnet_training/cache, for later "
                    "runs and for more pictures than memory holds. Off: in memory.",
                ),
            ],
            [
                TrainingDataType.Output(
                    "data", tooltip="The data, for Train ControlNet and Reward Fine-Tune."
                ),
                io.String.Output(
                    "report", tooltip="How many pictures there are, and what was left out."
                ),
            ],
            aliases=("dataset", "fill50k", "training set", "image caption folder"),
            is_input_list=True,
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder=None, conditions_folder=None, **_inputs: Any) -> str:
        return folder_stamp(*(_one(name) or "" for name in (folder, conditions_folder)))

    @classmethod
    def execute(
        cls,
        clip: list[Any],
        kind: list[str],
        tolerance: list[int],
        captions: list[str],
        vae=None,
        images=None,
        conditions=None,
        latents=None,
        conditioning=None,
        annotator=None,
        **widgets: list[Any],
    ) -> io.NodeOutput:
        choices = Choices(**{name: _one(value) for name, value in widgets.items()})
        lists = None
        if choices.source == LISTS:
            if len(captions) == 1:  # written into the node
                captions = captions[0].splitlines()
            lists = Lists(
                images or [], captions, latents or [], conditioning or [], conditions or []
            )
        name, finder = _finder(_one(kind), _one(tolerance), _one(annotator))
        data = make_data(choices, _one(clip), _one(vae), lists, name, finder)
        return io.NodeOutput(data, data.text, ui=show_text(cls, data.text))


def _finder(
    kind: str, tolerance: int, annotator: NodeAnnotator | None
) -> tuple[str, Finder | None]:
    """What the conditions are called, and how they are found; None where nothing here does."""
    if kind == OTHER:
        if annotator is not None:
            raise ValueError(
                f"{NODE}: kind is {OTHER}, but the connected annotator finds "
                f"{annotator.condition}. Set kind to that, or disconnect the annotator."
            )
        return OTHER, None
    condition, default = CHOICES[kind]
    if annotator is None and default is None:
        return condition.key, None
    return condition.key, finder_for(NODE, kind, tolerance, annotator)


def _one(value: Any) -> Any:
    """The host hands a list to a node that takes lists, even of a single value."""
    return value[0] if isinstance(value, list) and value else value


NODES = [ControlNetTrainingData]
