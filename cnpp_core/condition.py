"""The kinds of condition a ControlNet reads, and what the world calls them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class ConditionKind:
    """One kind: how agreement with it is measured and where its files and annotators are found.

    ``metric`` and ``reward`` follow the protocol of ControlNet++ (arXiv 2404.07987, tables 1 and
    6); ``controlnet`` and ``controlnetpp`` name the released SD1.5 checkpoints, None where there
    is none.
    """

    label: str
    metric: str
    higher_is_better: bool
    reward: str
    webui_preprocessor: str
    controlnet: str
    controlnetpp: str | None


class Condition(Enum):
    """The closed list of condition kinds."""

    CANNY = ConditionKind(
        "Canny",
        "edge F1",
        True,
        "MSE",
        "canny",
        "control_v11p_sd15_canny",
        "controlnet++_canny_sd15_fp16",
    )
    SOFTEDGE = ConditionKind(
        "Soft Edge (HED)",
        "MS-SSIM",
        True,
        "MSE",
        "softedge_hed",
        "control_v11p_sd15_softedge",
        "controlnet++_hed_softedge_sd15_fp16",
    )
    LINEART = ConditionKind(
        "Line Art",
        "MS-SSIM",
        True,
        "MSE",
        "lineart_realistic",
        "control_v11p_sd15_lineart",
        "controlnet++_lineart_sd15_fp16",
    )
    MLSD = ConditionKind(
        "M-LSD Lines",
        "edge F1",
        True,
        "MSE",
        "mlsd",
        "control_v11p_sd15_mlsd",
        None,
    )
    SCRIBBLE = ConditionKind(
        "Scribble",
        "edge F1",
        True,
        "MSE",
        "scribble_hed",
        "control_v11p_sd15_scribble",
        None,
    )
    POSE = ConditionKind(
        "OpenPose",
        "PCK",
        True,
        "MSE",
        "openpose",
        "control_v11p_sd15_openpose",
        None,
    )
    DEPTH = ConditionKind(
        "Depth",
        "RMSE",
        False,
        "MSE",
        "depth_midas",
        "control_v11f1p_sd15_depth",
        "controlnet++_depth_sd15_fp16",
    )
    NORMAL = ConditionKind(
        "Normal",
        "mean angle",
        False,
        "MSE",
        "normal_midas",
        "control_sd15_normal",
        None,
    )
    SEG = ConditionKind(
        "Segmentation (ADE20K)",
        "mIoU",
        True,
        "cross entropy",
        "seg_ofade20k",
        "control_v11p_sd15_seg",
        "controlnet++_seg_sd15_fp16",
    )
