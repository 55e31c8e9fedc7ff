"""Batches of records: a bucket, its pictures, what encoders make of them, conditions, captions."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...condition import Condition
from ...control.hints import SMOOTH
from ..batch import TrainingBatch, dropped
from .buckets import Size, bucket_of, bucket_sizes
from .cache import Cache
from .embeddings import joined
from .records import Problems, Record
from .view import UnreadableError, View

log = logging.getLogger(__name__)

# Pictures (B, 3, H, W) in 0..1 to latents (B, C, H/8, W/8) as the UNet takes them, no random ones.
EncodeImage = Callable[[Tensor], Tensor]
# Captions to context (B, L, context_dim), and to y (B, adm) where the UNet takes one.
EncodeText = Callable[[Sequence[str]], tuple[Tensor, Tensor | None]]
# Pictures (B, 3, H, W) in 0..1, as they are trained on, to conditions (B, 1 or 3, H, W) in 0..1.
# What is random about it comes from the generator, a CPU one.
Annotate = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class DataSettings:
    """How batches are made of records; ValueError naming the setting that is out of its range.

    resolution: the area of a bucket is about its square. batch: pictures in one. drop_text: part of
    the captions that are replaced by the empty one, by default as published (arXiv 2302.05543,
    section 3.4). mirror: half of the pictures are mirrored together with their conditions; not for
    captions that know left from right. kind: of the conditions, where it is known: some of them
    can't be mirrored once they are found. resampling: how conditions are resized, one of
    `control.hints.RESAMPLINGS`: nearest for colours that stand for classes. sizes: y is followed by
    what SDXL is told of sizes (arXiv 2307.01952, section 2.2).
    """

    resolution: int = 512
    batch: int = 4
    drop_text: float = 0.5
    mirror: bool = False
    kind: Condition | None = None
    resampling: str = SMOOTH
    sizes: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"The setting batch is {self.batch}, expected at least 1.")
        if not 0 <= self.drop_text <= 1:
            raise ValueError(f"The setting drop_text is {self.drop_text}, expected 0 to 1.")


@dataclass(frozen=True)
class Encoders:
    """What makes latents and text embeddings, and names for both that tell them from others.

    A cache in a folder needs the names; `cache.fingerprint` of a network is one.
    """

    image: EncodeImage
    text: EncodeText
    image_name: str = ""
    text_name: str = ""


class RecordDraw:
    """Draws batches of records: a `Draw`, for `noised` and every other source of states.

    A batch comes from one bucket, every record is as likely as any other, and all that is random
    comes from the generator: its state decides the batch, whatever was drawn before.

    Cached, once each, are the latents of a picture in its bucket, those of the mirrored picture
    apart from them, and what a caption is encoded to. Conditions are not: they are read at every
    draw, or found by ``annotate`` where a record has none, so that what is random about them stays
    so. A record that can't be read when it is drawn joins ``problems``, and another is drawn.

    Raises ValueError for records that lack what this needs, and for no records.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encoders: Encoders,
        settings: DataSettings,
        *,
        annotate: Annotate | None = None,
        cache: Cache | None = None,
        problems: Problems | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.records = list(records)
        self.encoders = encoders
        self.settings = settings
        self.annotate = annotate
        self.cache = cache or Cache()
        self.problems = problems or Problems()
        self.device = torch.device(device)
        self._require_usable()
        sizes = bucket_sizes(settings.resolution)
        self.buckets: dict[Size, list[Record]] = defaultdict(list)
        self._bucket_of: dict[Record, Size] = {}
        for record in self.records:
            self._bucket_of[record] = bucket = bucket_of(record.size, sizes)
            self.buckets[bucket].append(record)
        self._bad: set[Record] = set()
        self._say_buckets()

    def __len__(self) -> int:
        """The number of records."""
        return len(self.records)

    def __call__(self, generator: torch.Generator) -> TrainingBatch:
        """The batch of this state of the generator; ValueError if it can't be made.

        It is the same in whatever precision the training computes.
        """
        with torch.autocast(self.device.type, enabled=False):
            rows = [self._row(self.records, generator)]
            among = self.buckets[rows[0].view.bucket]
            rows += [self._row(among, generator) for _ in range(self.settings.batch - 1)]
            hints = [self._hint(row, generator) for row in rows]
            return self._batch(rows, hints, dropped(len(rows), self.settings.drop_text, generator))

    def whole(self, generator: torch.Generator) -> list[TrainingBatch]:
        """All records that can be read, once and as they are: for each bucket a batch.

        The generator is for what is random about conditions.
        """
        batches = []
        for records in self.buckets.values():
            rows = []
            for record in records:
                view = self._view(record, False)
                try:
                    rows.append(_Row(view, self._latents(view), self._seen(view)))
                except UnreadableError as error:
                    self._leave_out(record, error)
            if rows:
                hints = [self._hint(row, generator) for row in rows]
                batches.append(self._batch(rows, hints))
        return batches

    def _batch(
        self, rows: Sequence[_Row], hints: list[Tensor], dropped: Tensor | None = None
    ) -> TrainingBatch:
        captions = [row.view.record.caption for row in rows]
        context, y = self._encoded([*captions, *[""] * len(rows)])
        if y is not None and self.settings.sizes:
            sizes = torch.stack([row.view.size_embedding() for row in rows])
            y = torch.cat([y, sizes.repeat(2, 1).to(y)], 1)
        ys = (None, None) if y is None else y.to(self.device).chunk(2)
        contexts = context.to(self.device).chunk(2)
        return TrainingBatch(
            x0=torch.cat([row.latents for row in rows]).float().to(self.device),
            context=contexts[0],
            hint=torch.cat(hints).to(self.device),
            y=ys[0],
            empty=contexts[1],
            empty_y=ys[1],
            dropped=None if dropped is None else dropped.to(self.device),
        )

    def encode_all(self) -> None:
        """Fill the cache with all that can be drawn; the encoders are not called any more then."""
        for record in self.records:
            try:
                for mirrored in sorted({False, self.settings.mirror}):
                    self._latents(self._view(record, mirrored))
            except UnreadableError as error:
                self._leave_out(record, error)
        for caption in sorted({"", *(record.caption for record in self.records)}):
            self._text(caption)
        log.info("%d encoded, %d from the cache", self.cache.made, self.cache.found)

    def _row(self, among: Sequence[Record], generator: torch.Generator) -> _Row:
        """A record that can be read, mirrored or not.

        As much is drawn for one that is known to be bad as for one that proves to be, so that the
        batch does not depend on what is known.
        """
        while True:
            chosen = int(torch.randint(len(among), (), generator=generator))
            mirrored = bool(torch.rand((), generator=generator) < 0.5)
            record = among[chosen]
            if record in self._bad:
                continue
            view = self._view(record, mirrored and self.settings.mirror)
            try:
                return _Row(view, self._latents(view), self._seen(view))
            except UnreadableError as error:
                self._leave_out(record, error)
                if self._bad.issuperset(among):
                    raise ValueError(
                        f"None of the {len(among)} records to draw from can be used; the last one "
                        f"is {record.name}: {error}"
                    ) from error

    def _view(self, record: Record, mirrored: bool) -> View:
        return View(record, self._bucket_of[record], mirrored)

    def _latents(self, view: View) -> Tensor:
        key = {
            "kind": "latents",
            "encoder": self.encoders.image_name,
            "picture": view.record.stamp,
            "size": list(view.bucket),
            "mirrored": view.mirrored,
        }

        def make() -> dict[str, Tensor]:
            return {"latents": self.encoders.image(view.of(view.record.picture))}

        return self.cache.get(key, make)["latents"]

    def _seen(self, view: View) -> Tensor:
        """The condition, or the picture that it is still to be found in."""
        if view.record.condition is None:
            return view.of(view.record.picture)
        return view.of(view.record.condition, self.settings.resampling)

    def _hint(self, row: _Row, generator: torch.Generator) -> Tensor:
        hint = row.seen
        if row.view.record.condition is None and self.annotate is not None:
            hint = self.annotate(row.seen, generator)
        return hint.expand(-1, 3, -1, -1) if hint.shape[1] == 1 else hint

    def _text(self, caption: str) -> dict[str, Tensor]:
        key = {"kind": "text", "encoder": self.encoders.text_name, "caption": caption}

        def make() -> dict[str, Tensor]:
            context, y = self.encoders.text([caption])
            return {"context": context} if y is None else {"context": context, "y": y}

        return self.cache.get(key, make)

    def _encoded(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """context (N, L, context_dim) and y (N, adm)."""
        texts = [self._text(caption) for caption in captions]
        ys = [text["y"] for text in texts if "y" in text]
        return joined([text["context"] for text in texts]), torch.cat(ys) if ys else None

    def _leave_out(self, record: Record, error: Exception) -> None:
        self._bad.add(record)
        self.problems.add(record.name, error)

    def _require_usable(self) -> None:
        if not self.records:
            raise ValueError("There are no records to train with.")
        kind = self.settings.kind if self.settings.mirror else None
        for record in self.records:
            if record.condition is None and self.annotate is None:
                raise ValueError(
                    f"{record.name} has no condition: give conditions, or an annotator that "
                    "finds them in the pictures."
                )
            if record.condition is not None and kind is not None and kind.value.sided:
                raise ValueError(
                    f"{record.name} has a condition that knows left from right, {kind.value.label}:"
                    " mirrored, it would be wrong. Set mirror to false, or give pictures alone and "
                    "an annotator that finds conditions in them."
                )
        if self.cache.folder and not (self.encoders.image_name and self.encoders.text_name):
            raise ValueError(
                f"Before anything is kept in {self.cache.folder}, the encoders need names that "
                "change when their weights do, such as `cache.fingerprint` gives."
            )

    def _say_buckets(self) -> None:
        sizes = ", ".join(
            f"{len(records)} of {width}x{height}"
            for (width, height), records in sorted(self.buckets.items())
        )
        log.info("%d records: %s", len(self), sizes)
        small = sum(
            size[0] > record.size[0] or size[1] > record.size[1]
            for record, size in self._bucket_of.items()
        )
        if small:
            log.info("%d of them are enlarged for this; a lower resolution would not", small)


@dataclass(frozen=True, eq=False)
class _Row:
    """One row of a batch; ``seen`` as `RecordDraw._seen` has it."""

    view: View
    latents: Tensor
    seen: Tensor
