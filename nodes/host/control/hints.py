"""The hint that a call reads, prepared by the host's own control once for all calls alike."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....cnpp_core.control.hints import HintFit
from ....cnpp_core.control.partial import KEPT
from ....cnpp_core.control.runner import Chunk
from .call import Call, Given

# What a control of the host makes of its hint and keeps from call to call.
PREPARED = ("cond_hint_original", "cond_hint", "extra_concat", "control_input")


def side_by_side(hints: Sequence[Tensor]) -> Tensor:
    """Hints (B, C, H, W) one behind another in channels; batches of unequal length go round."""
    count = max(hint.shape[0] for hint in hints)
    return torch.cat([hint[[i % hint.shape[0] for i in range(count)]] for hint in hints], dim=1)


def given_hint(control: Any, x: Tensor) -> Given | None:
    """The hint that somebody has set for this very call, if it has the size that the host wants.

    Packs that sample a picture in tiles set the ``cond_hint`` of each; the host computes one only
    where none of the right size is there.
    """
    hint, ratio = getattr(control, "cond_hint", None), control.compression_ratio
    if hint is None or tuple(hint.shape[2:4]) != (x.shape[2] * ratio, x.shape[3] * ratio):
        return None
    return Given(hint)


class Hints:
    """The hints of one run.

    The host keeps one hint per control and cuts it down as it goes; here each kind of call (its
    size, area, rows, frames) has one of its own, the last few of them.

    inner: the host's control. union_hints: of a union network's conditions, None for its own.
    whole: the inner control's hint before anybody cut it.
    """

    def __init__(
        self,
        inner: Any,
        fit: HintFit,
        union_hints: tuple[Tensor | None, ...] = (),
        whole: Tensor | None = None,
    ) -> None:
        self._inner, self._fit, self._union_hints = inner, fit, union_hints
        self._whole, self._given = whole, None
        self._original = inner.cond_hint_original
        self._prepared: dict[Hashable, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._prepared)

    def forget(self) -> None:
        """Take back a hint that was set for a call of this run and would outlive it."""
        if self._given is not None and self._given.hint is self._inner.cond_hint:
            self._inner.cond_hint = None

    def require_place(self, call: Call, *, has_masks: bool) -> None:
        """ValueError naming what can't be honoured where another node samples in tiles."""
        self._given = call.given
        is_part = call.given is not None or not _same(self._inner.cond_hint_original, self._whole)
        if not is_part:
            return
        doubt = None
        if has_masks:
            doubt = "Block Masks", "which tile of the mask belongs to it is not known"
        elif len(self._union_hints) > 0:
            doubt = "Union Control Type", "its images have other sizes; give all of them one size"
        elif call.given is not None and replace(self._fit, by_area=False) != HintFit():
            doubt = "Hint Fit", "the control image is brought to size by that node instead"
        elif call.given is not None and self._fit.by_area and any(c.area for c in call.chunks):
            doubt = "Hint Fit with follow_area", "areas and tiles can't be told apart"
        if doubt is not None:
            raise ValueError(
                "Another node samples the picture in tiles and cuts the control image for each "
                f"(TiledDiffusion, Ultimate SD Upscale): {doubt[0]} can't act there, for "
                f"{doubt[1]}. Bypass one of the two nodes."
            )

    def has(self, call: Call, chunks: Sequence[Chunk]) -> bool:
        """True if the hint that these chunks of a call read is prepared."""
        return self._kind(call, chunks) in self._prepared

    @contextmanager
    def reader(self, call: Call) -> Iterator[Any]:
        """The inner control as it is set now, in a shallow copy that holds this call's hint."""
        if self._inner.cond_hint_original is not self._original:  # somebody has exchanged it
            self._original = self._inner.cond_hint_original
            self._prepared.clear()
        kind = self._kind(call, call.chunks)
        reader = copy.copy(self._inner)
        vars(reader).update(self._prepared.pop(kind, None) or self._first(call))
        yield reader
        # The last one used is the last one to go.
        self._prepared[kind] = {name: getattr(reader, name, None) for name in PREPARED}
        while len(self._prepared) > KEPT:
            del self._prepared[next(iter(self._prepared))]

    @property
    def _all(self) -> list[Tensor]:
        own = self._inner.cond_hint_original
        return [own if hint is None else hint for hint in self._union_hints] or [own]

    def _kind(self, call: Call, chunks: Sequence[Chunk]) -> Hashable:
        """What decides how a hint is prepared."""
        if call.given is not None:
            return tuple(chunk.key for chunk in chunks)
        areas = tuple(chunk.area for chunk in chunks)
        if self._fit.by_area and any(areas):
            return call.latent_size, call.images, areas, call.frames
        if all(hint.shape[0] == 1 for hint in self._all):  # the host leaves a single hint single
            return call.latent_size
        return call.latent_size, call.images, len(chunks), call.frames

    def _first(self, call: Call) -> dict[str, Any]:
        """What the reader of such calls starts with."""
        fresh: dict[str, Any] = {"cond_hint": None, "extra_concat": None, "control_input": None}
        if call.given is not None:
            return {**fresh, "cond_hint": call.given.hint}
        by_area = self._fit.by_area and any(chunk.area for chunk in call.chunks)
        if by_area or call.frames or self._union_hints or not self._fit.is_default:
            return {**fresh, "cond_hint_original": self._placed(call, by_area)}
        return fresh

    def _placed(self, call: Call, by_area: bool) -> Tensor:
        """The hint (or hints, one behind another in channels) as these rows see it."""
        ratio = self._inner.compression_ratio
        if self._inner.vae is not None:
            ratio *= self._inner.vae.spacial_compression_encode()
        size = (call.latent_size[0] * ratio, call.latent_size[1] * ratio)

        def placed(chunk: Chunk) -> Tensor:
            parts = [self._fit.place(hint, size, call.full, chunk.area) for hint in self._all]
            hint = side_by_side(parts)
            count = hint.shape[0]
            if call.frames is None and not by_area:
                return hint
            frames = call.frames or range(call.images)
            return hint[[i % count for i in frames]]

        if not by_area:
            return placed(call.chunks[0])
        return torch.cat([placed(chunk) for chunk in call.chunks])


def _same(hint: Tensor | None, whole: Tensor | None) -> bool:
    """True if nobody has put another picture in the place of the whole one."""
    if hint is whole or hint is None or whole is None:
        return True
    return hint.shape == whole.shape and torch.equal(hint, whole.to(hint))
