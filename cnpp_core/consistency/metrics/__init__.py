"""How well a recovered condition agrees with the one that was given, by kind of map.

Every function takes batches and gives one number per picture, (B,); a mask (B or 1, 1, H, W) says
where to look. What a reward needs is differentiable and says so.
"""

from __future__ import annotations

from .depth import DepthScore, align, depth_score, rmse, stretched
from .edges import EdgeScore, dilate, edge_f1
from .normals import NormalScore, angles, normal_score
from .pose import PoseScore, keypoint_size, match_people, oks, pck, pose_score
from .regions import class_iou, confusion, mean_iou
from .similarity import BETAS, betas_that_fit, ms_ssim, ssim

__all__ = [
    "BETAS",
    "DepthScore",
    "EdgeScore",
    "NormalScore",
    "PoseScore",
    "align",
    "angles",
    "betas_that_fit",
    "class_iou",
    "confusion",
    "depth_score",
    "dilate",
    "edge_f1",
    "keypoint_size",
    "match_people",
    "mean_iou",
    "ms_ssim",
    "normal_score",
    "oks",
    "pck",
    "pose_score",
    "rmse",
    "ssim",
    "stretched",
]
