"""The kinds of condition a ControlNet reads: a kind is one row.

A row says what agreement with the condition means and which losses lead there; everything that
measures, steers, trains or makes a table reads it here. The other half of a kind, how it is found
in a picture, is the row of the same name in `annotators.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .consistency.agreement.colours import ColourMeasure
from .consistency.agreement.depth import DepthMeasure
from .consistency.agreement.labels import LabelMeasure
from .consistency.agreement.lines import EdgeMeasure
from .consistency.agreement.measure import Measure
from .consistency.agreement.normals import NormalMeasure
from .consistency.agreement.poses import PoseMeasure
from .consistency.agreement.soft_maps import SoftMapMeasure
from .consistency.losses import (
    Loss,
    cross_entropy,
    joint_loss,
    line_loss,
    mse,
    normal_loss,
    relative_mse,
    stretched_mse,
    stroke_loss,
)

# Strokes are thick: of trained HED they cover up to 62 % of a photograph (scikit-image's).
MOST_STROKES = 0.8


@dataclass(frozen=True)
class ConditionKind:
    """The row of one kind of condition.

    label: as its node is called. agreement: (tolerance in pixels, classes) -> what a score means;
    it also says which pictures are plausible conditions. reward: the loss that ControlNet++ trains
    with (arXiv 2404.07987, table 6). guidance: the loss that one picture is steered by.
    preprocessor: its names in the web UI, with commas between. controlnet, controlnetpp: the
    released SD1.5 checkpoints, None where there is none. words: what says in the name of a file,
    or of a union network's type, that this kind is read (`misfit.py`). sided: it knows left from
    right, by colours of their own, so that a mirrored one is not that of the mirrored picture.
    """

    label: str
    agreement: Callable[[int, Sequence[Any]], Measure]
    reward: Loss
    guidance: Loss
    preprocessor: str
    controlnet: str
    words: tuple[str, ...]
    controlnetpp: str | None = None
    sided: bool = False


class Condition(Enum):
    """The closed list of kinds; a member's value is its row, its `key` the name to the outside."""

    CANNY = ConditionKind(
        label="Canny",
        agreement=lambda tolerance, _: EdgeMeasure(tolerance),
        reward=mse,
        guidance=line_loss,
        preprocessor="canny",
        controlnet="control_v11p_sd15_canny",
        words=("canny",),
        controlnetpp="controlnet++_canny_sd15_fp16",
    )
    SOFTEDGE = ConditionKind(
        label="Soft Edge (HED)",
        agreement=lambda *_: SoftMapMeasure(),
        reward=mse,
        guidance=mse,
        preprocessor="softedge_hed, softedge_hedsafe",
        controlnet="control_v11p_sd15_softedge",
        words=("softedge", "soft edge", "hed", "pidi", "pidinet"),
        controlnetpp="controlnet++_hed_softedge_sd15_fp16",
    )
    LINEART = ConditionKind(
        label="Line Art",
        agreement=lambda *_: SoftMapMeasure("line drawing", "Line Art"),
        reward=mse,
        guidance=mse,
        preprocessor="lineart_realistic, lineart_coarse",
        controlnet="control_v11p_sd15_lineart",
        words=("lineart", "line art"),
        controlnetpp="controlnet++_lineart_sd15_fp16",
    )
    MLSD = ConditionKind(
        label="M-LSD Lines",
        agreement=lambda tolerance, _: EdgeMeasure(tolerance, "line", "M-LSD Lines"),
        reward=mse,
        guidance=line_loss,
        preprocessor="mlsd",
        controlnet="control_v11p_sd15_mlsd",
        words=("mlsd", "m lsd"),
    )
    SCRIBBLE = ConditionKind(
        label="Scribble",
        agreement=lambda tolerance, _: EdgeMeasure(tolerance, "stroke", "Scribble", MOST_STROKES),
        reward=mse,
        guidance=stroke_loss,
        preprocessor="scribble_hed, scribble_xdog",
        controlnet="control_v11p_sd15_scribble",
        words=("scribble",),
    )
    POSE = ConditionKind(
        label="OpenPose",
        agreement=lambda tolerance, _: PoseMeasure(tolerance),
        reward=joint_loss,
        guidance=joint_loss,
        preprocessor="openpose, openpose_hand",
        controlnet="control_v11p_sd15_openpose",
        words=("openpose", "dwpose", "pose"),
        sided=True,
    )
    DEPTH = ConditionKind(
        label="Depth (MiDaS)",
        agreement=lambda *_: DepthMeasure(),
        reward=relative_mse,
        guidance=stretched_mse,
        preprocessor="depth_midas",
        controlnet="control_v11f1p_sd15_depth",
        words=("depth",),
        controlnetpp="controlnet++_depth_sd15_fp16",
    )
    NORMAL = ConditionKind(
        label="Normal",
        agreement=lambda *_: NormalMeasure(),
        reward=normal_loss,
        guidance=normal_loss,
        preprocessor="normal_midas",
        controlnet="control_sd15_normal",
        words=("normal", "normalbae", "normalmap"),
        sided=True,
    )
    SEG = ConditionKind(
        label="Segmentation (ADE20K)",
        agreement=lambda _, classes: LabelMeasure(*classes),
        reward=cross_entropy,
        guidance=cross_entropy,
        preprocessor="seg_ofade20k",
        controlnet="control_v11p_sd15_seg",
        words=("seg", "segment", "segmentation"),
        controlnetpp="controlnet++_seg_sd15_fp16",
    )
    TILE = ConditionKind(
        label="Tile",
        agreement=lambda *_: ColourMeasure(),
        reward=mse,
        guidance=mse,
        preprocessor="tile_resample, blur_gaussian",
        controlnet="control_v11f1e_sd15_tile",
        words=(),
    )

    @classmethod
    def named(cls, key: str) -> Condition:
        """The kind of this key; ValueError for one that does not exist, naming those that do."""
        if key.upper() not in cls.__members__:
            known = ", ".join(kind.key for kind in cls)
            raise ValueError(f"'{key}' is no kind of condition; there are {known}.")
        return cls[key.upper()]

    @property
    def key(self) -> str:
        """Its name in nodes, files and on the command line: the member's in lower case."""
        return self.name.lower()

    def measure(self, tolerance: int = 0, classes: Sequence[Any] = ()) -> Measure:
        """What agreement means, see `ConditionKind`.

        tolerance: in pixels, for lines and joints. classes: palette, names and palette's name, for
        kinds whose colours stand for classes; the core knows no data set.
        """
        return self.value.agreement(tolerance, classes)
