"""Regions: overlap of two labellings, from counts of pixels."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = 255


def confusion(
    prediction: Tensor,
    target: Tensor,
    classes: int,
    ignore_index: int = IGNORE,
    mask: Tensor | None = None,
) -> Tensor:
    """How many pixels of class i are labelled j, (B, classes, classes + 1) int64, rows the target.

        counts[i, j] = |target = i and prediction = j|

    prediction: (B, H, W) whole numbers in 0..classes-1; target: the same or `ignore_index`, batch B
    or 1. mask: (B or 1, 1, H, W). Pixels that the target ignores or the mask leaves out don't
    count, whatever is predicted there. A prediction of `ignore_index` elsewhere is wrong: the last
    column counts these. Raises ValueError for other shapes, types and classes.

    >>> confusion(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]), classes=2)
    tensor([[[1, 1, 0],
             [0, 1, 0]]])
    """
    if prediction.ndim != 3 or prediction.is_floating_point() or target.is_floating_point():
        raise ValueError(
            f"Labels are {prediction.dtype} of shape {tuple(prediction.shape)} and {target.dtype}; "
            "whole numbers of shape (B, H, W) are needed."
        )
    if target.shape[1:] != prediction.shape[1:] or len(target) not in (1, len(prediction)):
        raise ValueError(
            f"The target has shape {tuple(target.shape)}, the prediction "
            f"{tuple(prediction.shape)}; they need one size and a target for one or for all."
        )
    target = target.to(prediction.device).expand_as(prediction).long()
    counted = target != ignore_index
    if mask is not None:
        counted = counted & (mask.to(prediction.device)[:, 0] > 0.5)
    predicted = torch.where(prediction == ignore_index, classes, prediction.long())
    for name, labels in (("target", target), ("prediction", predicted)):
        wrong = counted & ((labels < 0) | (labels >= classes + (name == "prediction")))
        if wrong.any():
            raise ValueError(
                f"The {name} holds class {int(labels[wrong][0])}; {classes} classes are 0 to "
                f"{classes - 1}, and {ignore_index} for pixels to ignore."
            )
    size = classes * (classes + 1)
    row = torch.arange(len(prediction), device=prediction.device).view(-1, 1, 1)
    cells = (row * classes + target) * (classes + 1) + predicted
    counts = torch.bincount(cells[counted], minlength=len(prediction) * size)
    return counts.view(len(prediction), classes, classes + 1)


def class_iou(counts: Tensor) -> Tensor:
    """Intersection over union of every class, (..., K), from (..., K, K or K + 1) counts.

        IoU_i = counts[i, i] / (row i + column i - counts[i, i])

    NaN for classes that are in neither labelling. The counts of several pictures may be added up
    before, which is the mIoU of a data set. In float64 on the CPU, for Apple's GPUs have none.

    >>> class_iou(torch.tensor([[1, 1], [0, 1]]))
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    classes = counts.shape[-2]
    counts = counts.cpu().double()
    square = counts[..., :classes]
    hits = square.diagonal(dim1=-2, dim2=-1)
    union = counts.sum(-1) + square.sum(-2) - hits
    return torch.where(union > 0, hits / union.clamp(min=1), torch.nan)


def mean_iou(
    prediction: Tensor,
    target: Tensor,
    classes: int,
    ignore_index: int = IGNORE,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean IoU over the classes that occur in either labelling, per picture, (B,) float32.

        mIoU = mean over i of |target = i and prediction = i| / |target = i or prediction = i|

    Arguments as in `confusion`. NaN where every pixel is ignored.

    >>> mean_iou(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]), classes=3)
    tensor([0.5000])
    """
    counts = confusion(prediction, target, classes, ignore_index, mask)
    return class_iou(counts).nanmean(-1).float().to(prediction.device)
