"""The cycle: does the condition that comes out of a picture equal the one that went in?

ControlNet++ (arXiv 2404.07987, section 3.1). The annotator is a callable, because the core knows
none; what agreement means for a kind of condition is a `Measure`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .edges import EdgeMeasure
from .measure import Legend, Measure
from .resize import resize_nearest, same_aspect


@dataclass(frozen=True, eq=False)
class CheckResult:
    """How well pictures follow their condition."""

    score: float  # mean over the pictures
    per_image: tuple[float, ...]
    recovered: Tensor  # (B, 1 or 3, H, W): the annotator on the pictures
    difference: Tensor  # (B, 3, H, W) in 0..1, colours as in `legend`
    legend: Legend
    report: str


def check_consistency(
    image: Tensor,
    condition: Tensor,
    annotator: Callable[[Tensor], Tensor],
    measure: Measure | None = None,
    mask: Tensor | None = None,
) -> CheckResult:
    """Annotate the pictures again and compare with the condition they were made from.

    image: (B, 3, H, W) float RGB in 0..1.
    condition: (B or 1, 1 or 3, H', W') in 0..1; another size is brought to the picture's, if the
    aspect is the same to within a pixel.
    annotator: (B, 3, H, W) -> (B, 1 or 3, H, W) in 0..1, the one that made the condition.
    measure: `EdgeMeasure()` (edge F1, exact pixels) unless given.
    mask: (B or 1, 1, H', W'); only where it is above 0.5 is compared.
    """
    measure = measure or EdgeMeasure()
    _check_batch(image, "picture", channels=(3,), like=None)
    _check_batch(condition, "condition", channels=(1, 3), like=image)
    height, width = image.shape[-2:]

    wanted, remarks = measure.read(condition.to(image.device))
    if condition.shape[-2:] != image.shape[-2:]:
        _check_aspect(condition, image, "condition")
        wanted = measure.resize(wanted, height, width)
        remarks.append(_resize_remark(condition, image))
    wanted = wanted.expand(image.shape[0], -1, -1, -1)
    inside = None if mask is None else _read_mask(mask, image)

    with torch.no_grad():
        recovered = annotator(image)
        if recovered.shape[0] != image.shape[0] or recovered.shape[-2:] != image.shape[-2:]:
            raise ValueError(
                f"The annotator turned pictures of shape {tuple(image.shape)} into "
                f"{tuple(recovered.shape)}; it needs one map per picture, at the picture's size. "
                "Set the annotator's resolution to 0."
            )
        found = measure.compare(recovered, wanted, inside)

    per_image = tuple(found.scores.tolist())
    score = sum(per_image) / len(per_image)
    heading = f"{measure.name}: {score:.1%}"
    if len(per_image) > 1:
        heading += f" over {len(per_image)} pictures ({min(per_image):.1%} to {max(per_image):.1%})"
    lines = [f"picture {number}: {line}" for number, line in enumerate(found.lines, start=1)]
    notes = [f"Note: {remark}" for remark in remarks]
    report = "\n".join([heading, *lines, *notes])
    return CheckResult(score, per_image, recovered, found.difference, measure.legend, report)


def _check_batch(
    pictures: Tensor, name: str, channels: tuple[int, ...], like: Tensor | None
) -> None:
    if pictures.ndim != 4 or pictures.shape[1] not in channels or 0 in pictures.shape:
        wanted = " or ".join(map(str, channels))
        raise ValueError(
            f"The {name} has shape {tuple(pictures.shape)}; the check needs (batch, {wanted}, "
            f"height, width), none of them 0. Look at the node that feeds the {name} input."
        )
    if not torch.isfinite(pictures).all():
        raise ValueError(
            f"The {name} has NaN or infinite values: the node that made it failed (a VAE decode in "
            "half precision often does; run that one in fp32)."
        )
    if like is not None and pictures.shape[0] not in (1, like.shape[0]):
        raise ValueError(
            f"There are {pictures.shape[0]} {name}s for {like.shape[0]} picture(s); connect one "
            f"{name} for all pictures, or one for each."
        )


def _check_aspect(other: Tensor, image: Tensor, name: str) -> None:
    if not same_aspect(other.shape[-2:], image.shape[-2:]):
        raise ValueError(
            f"The {name} is {_size(other)} pixels and the picture {_size(image)} (width x height): "
            f"not the same shape, so they can't be laid over each other. Crop or pad the {name} to "
            f"the picture's shape first (Upscale Image to {_size(image)} with crop 'center' does "
            "what sampling did with a control image)."
        )


def _read_mask(mask: Tensor, image: Tensor) -> Tensor:
    _check_batch(mask, "mask", channels=(1,), like=image)
    mask = mask.to(image.device)
    if mask.shape[-2:] != image.shape[-2:]:
        _check_aspect(mask, image, "mask")
        mask = resize_nearest(mask, *image.shape[-2:])
    inside = mask > 0.5
    empty = [
        i for i, any_inside in enumerate(inside.flatten(1).any(1).tolist(), 1) if not any_inside
    ]
    if empty:
        raise ValueError(
            f"The mask is empty (nothing above 0.5) in number {', '.join(map(str, empty))}, so "
            "nothing is left to compare. Paint the part to check white, or disconnect the mask."
        )
    return inside.expand(image.shape[0], -1, -1, -1)


def _resize_remark(condition: Tensor, image: Tensor) -> str:
    remark = f"the condition, {_size(condition)}, was brought to the picture's {_size(image)}"
    if condition.shape[-1] < image.shape[-1]:
        # Lines grow with the scale, while the annotator finds them one pixel thin.
        remark += "; enlarged lines are thick, which lowers the score: a condition made at the "
        remark += "picture's size is exact"
    return remark + "."


def _size(pictures: Tensor) -> str:
    return f"{pictures.shape[-1]}x{pictures.shape[-2]}"
