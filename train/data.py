"""What is trained with: records, how their conditions are found, batches, and what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..annotators.kinds import KINDS, Classes, Ways
from ..cnpp_core.condition import Condition
from ..cnpp_core.consistency.agreement.measure import Measure
from ..cnpp_core.control.hints import NEAREST, SMOOTH
from ..cnpp_core.training.batch import TrainingBatch
from ..cnpp_core.training.data.cache import Cache
from ..cnpp_core.training.data.draw import Annotate, DataSettings, RecordDraw
from ..cnpp_core.training.data.records import Problems, Record
from ..dataset.conditions import fixed, random_canny
from ..dataset.fill50k import LISTING, read_fill50k
from ..dataset.folders import read_folders
from ..dataset.shards import read_shards
from ..demo.model import load_segmenter
from ..demo.segmenter import CLASSES, PALETTE
from ..evaluate.sources import Source, weight_folders
from .models import DEMO, Model
from .options import OTHER, Options

OPENCV = "cv2"


@dataclass(frozen=True, eq=False)
class Finder:
    """How a kind of condition is found and judged; of a kind that nobody knows all is None.

    annotate: for records that have none, at every draw. networks: of the annotator.
    """

    kind: Condition | None = None
    ways: Ways | None = None
    measure: Measure | None = None
    annotate: Annotate | None = None
    networks: Sequence[nn.Module] = ()

    @property
    def resampling(self) -> str:
        """Of conditions: colours that stand for classes are never mixed."""
        return NEAREST if self.kind is Condition.SEG else SMOOTH


@dataclass(frozen=True, eq=False)
class Data:
    """draw: batches to train with; held_out: pictures to validate with; what could not be used."""

    draw: RecordDraw
    held_out: Sequence[TrainingBatch]
    problems: Problems


def read_records(options: Options, problems: Problems) -> list[Record]:
    """The records of whichever layout `data` has; ValueError naming what is missing."""
    if not options.data:
        raise ValueError("There is nothing to train with: give data, a folder or tar shards.")
    folder = Path(options.data)
    listed = (folder / LISTING).is_file()
    shards = folder.suffix == ".tar"
    if options.conditions is not None and (listed or shards):
        raise ValueError(
            f"{options.data} says itself where its conditions are: leave out conditions."
        )
    if shards:
        return read_shards(options.data, problems)
    if listed:
        return read_fill50k(folder, problems)
    return read_folders(folder, options.conditions, problems)


def finder_of(options: Options, device: torch.device, needed: bool) -> Finder:
    """The annotator with its networks on the device; none of a kind that nobody knows.

    needed: conditions are to be found, in pictures or for a reward or a score. Raises ValueError or
    FileNotFoundError for a method or weights that are not there.
    """
    if options.condition == OTHER:
        return Finder()
    kind = Condition.named(options.condition)
    classes = _demo_classes() if _is_demo_seg(options) else None
    if not needed:
        return Finder(kind)
    if classes is not None:
        segmenter = load_segmenter().to(device)
        ways = Ways(segmenter.annotate, segmenter.logits, classes=classes)
        networks: list[nn.Module] = [segmenter]
    else:
        method = KINDS[kind.key].method(options.method)
        settings = _thresholds(options, kind, method.name)
        folders = [options.annotators] if options.annotators else weight_folders()
        source = Source(folders, options.download, device)
        networks = [source.network(network) for network in method.networks]
        ways = method.ways(*networks, **settings)
    measure = kind.measure(options.tolerance, ways.classes or ())
    annotate = fixed(ways.find)
    if len(options.thresholds) == 4:
        low, high = options.thresholds[:2], options.thresholds[2:]
        annotate = random_canny((low[0], low[1]), (high[0], high[1]))
    return Finder(kind, ways, measure, _on(device, annotate), networks)


def data_of(
    records: Sequence[Record],
    options: Options,
    model: Model,
    finder: Finder,
    problems: Problems,
    device: torch.device,
) -> Data:
    """Batches on the device; those to validate with are of records that are not trained with.

    ValueError if these leave none to train with.
    """
    if options.held_out >= len(records):
        raise ValueError(
            f"{options.held_out} of {len(records)} records were to be held out, which leaves none "
            "to train with: lower held_out."
        )
    order = torch.randperm(len(records), generator=_seeded(options.seed)).tolist()
    settings = DataSettings(
        resolution=options.resolution,
        batch=options.batch,
        drop_text=options.drop_text,
        mirror=options.mirror,
        kind=finder.kind,
        resampling=finder.resampling,
        sizes=model.sizes,
    )
    cache = Cache(options.cache)

    def draw_of(some: Sequence[Record], annotate: Annotate | None) -> RecordDraw:
        return RecordDraw(
            some,
            model.encoders,
            settings,
            annotate=annotate,
            cache=cache,
            problems=problems,
            device=device,
        )

    draw = draw_of([records[i] for i in order[options.held_out :]], finder.annotate)
    held_out = []
    if options.held_out:
        # A condition to be judged by is found as it is going to be found again.
        same = None if finder.ways is None else _on(device, fixed(finder.ways.find))
        looked_at = draw_of([records[i] for i in order[: options.held_out]], same)
        held_out = looked_at.whole(_seeded(options.seed))
    return Data(draw, held_out, problems)


def _on(device: torch.device, annotate: Annotate) -> Annotate:
    return lambda pictures, generator: annotate(pictures.to(device), generator)


def _thresholds(options: Options, kind: Condition, method: str) -> dict[str, float]:
    """Settings of the annotator; ValueError for thresholds that it does not have."""
    found = options.thresholds
    if not found:
        return {}
    if kind is not Condition.CANNY or len(found) not in (2, 4):
        raise ValueError(
            f"The setting thresholds is {list(found)}: only canny has them, and takes 2 or 4."
        )
    if len(found) == 4:
        if method != OPENCV:
            raise ValueError(
                f"Thresholds are drawn at random for OpenCV's Canny only: set method to {OPENCV}."
            )
        return {}
    return {"low": found[0], "high": found[1]}


def _is_demo_seg(options: Options) -> bool:
    return options.model == DEMO and options.condition == Condition.SEG.key


def _demo_classes() -> Classes:
    return Classes(PALETTE, CLASSES, "the shapes world")


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
