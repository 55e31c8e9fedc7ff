"""One request of the sampler for control: which rows it holds, and what is known about them.

The host sends cond and uncond rows together or apart, several areas of one size in a batch, and
windows of a longer batch. ``get_control`` is told little of this. The rest comes from the
transformer options and from two things that travel with a control that needs them: a mark on each
prompt, and a wrapper that writes down the areas of each step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from comfy import hooks, patcher_extension
from torch import Tensor

from ....cnpp_core.control.masks import Area
from ....cnpp_core.control.rows import COND, UNCOND
from ....cnpp_core.control.runner import Chunk, Request
from .windows import require_frames

logger = logging.getLogger(__name__)
MARK = "cnpp_mark"  # key in a prompt's model_conds
AREAS = "cnpp_areas"  # key in the transformer options: latent size and {prompt: area}


class PromptMark:
    """A conditioning value that says which side its prompt is on, and whether it has an area.

    No row index tells the side surely: guiders with three prompts put the negative one first.
    """

    def __init__(self, side: str, in_area: bool = False) -> None:
        self.side = side
        self.in_area = in_area

    def process_cond(self, area: Any = None, **_options: Any) -> PromptMark:
        return PromptMark(self.side, area is not None)

    def can_concat(self, _other: PromptMark) -> bool:
        return True

    def concat(self, others: Sequence[PromptMark]) -> tuple[PromptMark, ...]:
        return (self, *others)

    def size(self) -> list[int]:
        return [1]


class Given:
    """A hint that somebody has cut for this very call (B, C, H, W), equal only to itself."""

    def __init__(self, hint: Tensor) -> None:
        self.hint = hint

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and other.hint is self.hint

    def __hash__(self) -> int:
        return id(self.hint)


@dataclass(frozen=True)
class Call(Request):
    """What ``get_control`` was called with: t (chunks * images,), the conditioning, the options.

    given: the hint of a part of the picture, where another node samples it in parts.
    """

    t: Tensor = field(kw_only=True)
    cond: dict[str, Any] = field(kw_only=True)
    options: dict[str, Any] = field(kw_only=True)
    given: Given | None = field(kw_only=True, default=None)

    @cached_property
    def sigma(self) -> float:
        """Noise level of the call; read from the device once."""
        return float(self.t[0])

    @classmethod
    def read(
        cls,
        x: Tensor,
        t: Tensor,
        cond: dict[str, Any],
        count: int,
        options: dict[str, Any],
        frames: tuple[int, ...] | None = None,
        given: Given | None = None,
    ) -> Call:
        """The call, with its chunks told apart.

        frames: which of a longer batch these are, if not all. given: see the class.
        """
        indices = [*options.get("cond_or_uncond", [0] * count)]
        uuids = [*options.get("uuids", [None] * len(indices))]
        marks = cond.get(MARK) or [PromptMark(COND if index == 0 else UNCOND) for index in indices]
        if len({mark.side for mark in marks}) < len(set(indices)) == 2 and MARK in cond:
            logger.warning(
                "Positive and negative prompt come from the same output of Apply ControlNet++, so "
                "Control Mode treats both alike. Connect its other output as well."
            )
        full, areas = options.get(AREAS, (None, {}))
        parts = _parts(x, t, len(indices), options)
        if parts > 1:
            indices, uuids = indices * parts, uuids * parts
            options = {**options, "cond_or_uncond": indices, "uuids": uuids}
        images = x.shape[0] // len(indices)
        require_frames(frames, images)
        place = (images, tuple(x.shape[1:]), str(x.device), frames, given)
        chunks = []
        for i, (mark, uuid, index) in enumerate(zip([*marks] * parts, uuids, indices, strict=True)):
            part, area = i * parts // len(indices), areas.get(uuid)
            chunks.append(Chunk(i, mark.side, (uuid, index, area, place, part), area))
        if full is None and any(mark.in_area for mark in marks):
            raise ValueError(
                "A prompt got its area behind Apply ControlNet++, whose control follows areas "
                "(Block Masks or Hint Fit). Set the area first: connect Conditioning (Set Area), "
                "or Set Mask with mask bounds, in front of Apply ControlNet++."
            )
        rest = {name: value for name, value in cond.items() if name != MARK}
        return cls(x, tuple(chunks), full, frames, t=t, cond=rest, options=options, given=given)

    def only(self, chunks: Sequence[Chunk]) -> Call:
        """The call as it would be for some of its chunks."""
        if len(chunks) == len(self.chunks):
            return self
        total = self.x.shape[0]

        def select(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != total:
                return value
            parts = [self.rows(value, chunk) for chunk in chunks]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        options = dict(self.options)
        for name in ("cond_or_uncond", "uuids"):
            if name in options:
                options[name] = [options[name][chunk.index] for chunk in chunks]
        cond = {name: select(value) for name, value in self.cond.items()}
        chosen = tuple(replace(chunk, index=i) for i, chunk in enumerate(chunks))
        return replace(
            self,
            x=select(self.x),
            t=select(self.t),
            cond=cond,
            options=options,
            chunks=chosen,
            given=self.given and Given(select(self.given.hint)),
        )


def _parts(x: Tensor, t: Tensor, prompts: int, options: dict[str, Any]) -> int:
    """How many parts of a picture lie behind one another in a batch, each with all its rows.

    The host tells the noise level once for each image of the batch. TiledDiffusion puts several
    tiles of all the rows into one call, and repeats the noise levels to fit.
    """
    sigmas = options.get("sigmas")
    rows = x.shape[0] if sigmas is None else prompts * sigmas.numel()
    repeated = t.shape[0] == x.shape[0] > rows and x.shape[0] % rows == 0
    return x.shape[0] // rows if repeated else 1


def area_hooks() -> hooks.HookGroup:
    """Hooks that write the areas of each step into the transformer options."""
    wrapper = {patcher_extension.WrappersMP.CALC_COND_BATCH: {AREAS: [_note_areas]}}
    group = hooks.HookGroup()
    group.add(hooks.TransformerOptionsHook({"wrappers": wrapper}))
    return group


def _note_areas(
    calculate: Any, model: Any, conds: Any, x: Tensor, timestep: Tensor, options: dict
) -> Any:
    prompts = [prompt for side in conds if side is not None for prompt in side]
    areas = {prompt["uuid"]: _clamped(prompt["area"], x) for prompt in prompts if "area" in prompt}
    transformer_options = {**options.get("transformer_options", {})}
    transformer_options[AREAS] = ((x.shape[-2], x.shape[-1]), areas)
    options = {**options, "transformer_options": transformer_options}
    return calculate(model, conds, x, timestep, options)


def _clamped(area: Sequence[int], x: Tensor) -> Area:
    """The host's area (h, w, y, x), ending where the picture ends."""
    sides = len(area) // 2  # three for video, whose frames come first
    height, width = area[sides - 2 : sides]
    top, left = area[-2:]
    return min(height, x.shape[-2] - top), min(width, x.shape[-1] - left), top, left
