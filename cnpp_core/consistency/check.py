"""The cycle: does the condition that comes out of a picture equal the one that went in?

ControlNet++ (arXiv 2404.07987, section 3.1). The annotator is a callable, because the core knows
none; what agreement means for a kind of condition is a `Measure`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .agreement.lines import EdgeMeasure
from .agreement.measure import Legend, Measure
from .resize import resize_nearest, same_aspect


@dataclass(frozen=True, eq=False)
class CheckResult:
    """How well pictures follow their condition."""

    score: float  # mean over the pictures, in the unit of the measure
    per_image: tuple[float, ...]
    recovered: Tensor  # (B, 1 or 3, H, W): the annotator on the pictures
    difference: Tensor  # (B, 3, H, W) in 0..1, colours as in `legend`
    legend: Legend
    report: str
    lines: tuple[str, ...] = ()  # one sentence per picture
    higher_is_better: bool = True

    @property
    def ranking(self) -> list[int]:
        """Indices of the pictures, the most consistent first; of equals the earlier."""
        sign = -1 if self.higher_is_better else 1
        return sorted(range(len(self.per_image)), key=lambda i: sign * self.per_image[i])


def check_consistency(
    image: Tensor,
    condition: Tensor,
    annotator: Callable[[Tensor], Tensor],
    measure: Measure | None = None,
    mask: Tensor | None = None,
) -> CheckResult:
    """Annotate the pictures again and compare with the condition they were made from.

    image: (B, 3, H, W) float RGB in 0..1.
    condition: (B or 1, 1 or 3, H', W') in 0..1; another size is brought to that of the recovered
    one, if the aspect is the same to within a pixel.
    annotator: (B, 3, H, W) -> (B, 1 or 3, h, w) in 0..1, the one that made the condition. Where it
    works at a resolution of its own, the comparison is made at that.
    measure: `EdgeMeasure()` (edge F1, exact pixels) unless given; `Condition.measure` has the rest.
    mask: (B or 1, 1, H', W'); only where it is above 0.5 is compared.
    """
    measure = measure or EdgeMeasure()
    _check_batch(image, "picture", channels=(3,), like=None)
    _check_batch(condition, "condition", channels=(1, 3), like=image)
    _check_aspect(condition, image, "condition")
    wanted, remarks = measure.read(condition.to(image.device))
    if mask is not None:
        _check_mask(mask, image)

    with torch.no_grad():
        recovered = annotator(image)
        _check_recovered(recovered, image)
        height, width = recovered.shape[-2:]
        wanted = wanted.to(recovered.device)
        if condition.shape[-2:] != recovered.shape[-2:]:
            wanted = measure.resize(wanted, height, width)
            remarks.append(_resize_remark(condition, image, recovered, measure.enlarging))
        wanted = wanted.expand(image.shape[0], *wanted.shape[1:])
        inside = None if mask is None else _read_mask(mask.to(recovered.device), recovered)
        found = measure.compare(recovered, wanted, inside)

    per_image = tuple(found.scores.tolist())
    _check_scores(per_image)
    score = sum(per_image) / len(per_image)
    heading = f"{measure.name}: {measure.text(score)}"
    if len(per_image) > 1:
        low, high = measure.text(min(per_image)), measure.text(max(per_image))
        heading += f" over {len(per_image)} pictures ({low} to {high})"
    lines = [f"picture {number}: {line}" for number, line in enumerate(found.lines, start=1)]
    notes = [f"Note: {remark}" for remark in remarks]
    return CheckResult(
        score,
        per_image,
        recovered,
        found.difference,
        measure.legend,
        report="\n".join([heading, *lines, *notes]),
        lines=tuple(found.lines),
        higher_is_better=measure.higher_is_better,
    )


def _check_recovered(recovered: Tensor, image: Tensor) -> None:
    same = recovered.ndim == 4 and recovered.shape[0] == image.shape[0] and recovered.numel() > 0
    if not same or not same_aspect(recovered.shape[-2:], image.shape[-2:]):
        raise ValueError(
            f"The annotator turned pictures of shape {tuple(image.shape)} into "
            f"{tuple(recovered.shape)}; it needs one map per picture, of the picture's shape."
        )


def _check_scores(scores: tuple[float, ...]) -> None:
    empty = [str(number) for number, score in enumerate(scores, 1) if math.isnan(score)]
    if empty:
        raise ValueError(
            f"Nothing is left to compare in picture {', '.join(empty)}: the condition has nothing "
            "inside the mask, or what the mask leaves is too small or too near the border. Paint "
            "a larger part white, or disconnect the mask."
        )


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


def _check_mask(mask: Tensor, image: Tensor) -> None:
    _check_batch(mask, "mask", channels=(1,), like=image)
    _check_aspect(mask, image, "mask")
    empty = [
        i
        for i, any_inside in enumerate((mask > 0.5).flatten(1).any(1).tolist(), 1)
        if not any_inside
    ]
    if empty:
        raise ValueError(
            f"The mask is empty (nothing above 0.5) in number {', '.join(map(str, empty))}, so "
            "nothing is left to compare. Paint the part to check white, or disconnect the mask."
        )


def _read_mask(mask: Tensor, recovered: Tensor) -> Tensor:
    if mask.shape[-2:] != recovered.shape[-2:]:
        mask = resize_nearest(mask, *recovered.shape[-2:])
    return (mask > 0.5).expand(recovered.shape[0], -1, -1, -1)


def _resize_remark(condition: Tensor, image: Tensor, recovered: Tensor, enlarging: str) -> str:
    whose = "picture's" if recovered.shape[-2:] == image.shape[-2:] else "annotator's"
    remark = f"the condition, {_size(condition)}, was brought to the {whose} {_size(recovered)}"
    if condition.shape[-1] < recovered.shape[-1] and enlarging:
        remark += f"; {enlarging}"
    return remark + "."


def _size(pictures: Tensor) -> str:
    return f"{pictures.shape[-1]}x{pictures.shape[-2]}"
