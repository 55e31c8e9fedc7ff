"""The command `evaluate`: score every picture, write the table, the CSV file and the page."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..annotators.kinds import KINDS
from ..cnpp_core.condition import Condition
from ..cnpp_core.consistency.agreement.measure import Legend
from ..pictures.files import read_condition
from .extras import clip_score, fid
from .page import NAMES, Case, Evaluation, table, write_csv, write_html
from .pairs import Pair, find_pairs, read_batch
from .paper import PUBLISHED
from .records import Record, Records, Shard
from .scoring import CheckScoring, PaperScoring, Scoring
from .sources import Source, annotator_for, method_name, require_device, weight_folders

log = logging.getLogger(__name__)

EVERY = 10.0  # seconds between two lines of progress


def main(argv: Sequence[str] = ()) -> int:
    """Returns 0 when every condition has its score, 1 if other processes left some out."""
    options = _parser().parse_args(argv)
    kind = Condition.named(options.kind)
    require_device(options.device)
    shard = Shard.of_environment()
    pairs = find_pairs(options.pictures, options.conditions)[: options.limit or None]
    if options.protocol == "paper" and kind not in PUBLISHED:
        raise ValueError(
            f"The paper has no protocol for {options.kind}, only for "
            f"{', '.join(k.key for k in PUBLISHED)}: leave out --protocol paper."
        )
    paper = options.protocol == "paper" or (options.protocol == "auto" and kind in PUBLISHED)
    method = method_name(kind, options.method)
    settings = {
        "kind": options.kind,
        "protocol": "paper" if paper else "check",
        "method": method,
        "tolerance": "" if paper else str(options.tolerance),
        "model": str(options.model or ""),
    }
    records = Records(options.out, settings)  # before any network is loaded
    annotator = annotator_for(kind, _source(options, shard), method)
    ways = annotator.ways
    check = CheckScoring(kind, ways.find, options.tolerance, ways.classes)
    scoring: Scoring = check
    if paper and ways.raw is not None:
        scoring = PaperScoring(kind, ways.raw, ways.classes)

    device = _device(options, shard)
    _score(pairs, shard, records, scoring, kind, device)
    if shard.rank:
        return 0
    found = records.wait(
        pairs,
        options.patience,
        lambda missing: log.info("waiting for %d scores of other processes", missing),
    )
    missing = [pair.name for pair in pairs if pair.name not in found]
    remarks = [annotator.remark] if annotator.remark and paper else []
    if missing:
        remarks.append(
            f"{len(missing)} of {len(pairs)} conditions have no score, such as {missing[0]}: other "
            "processes did not finish. Run the command again to go on."
        )
    if not found:
        raise ValueError(f"{options.out} has no scores: {remarks[-1]}")
    evaluation = Evaluation(
        kind,
        scoring,
        pairs,
        [found[pair.name] for pair in pairs if pair.name in found],
        {key: value for key, value in settings.items() if key != "kind"},
        paper,
        remarks,
        _extras(pairs, options, device),
    )
    _write(evaluation, check, options, device)
    return 1 if missing else 0


def _score(
    pairs: Sequence[Pair],
    shard: Shard,
    records: Records,
    scoring: Scoring,
    kind: Condition,
    device: torch.device,
) -> None:
    """The scores of this process's part that are not there yet."""
    mine = shard.part(pairs)
    done = records.done(mine)
    left = [pair for pair in mine if pair.name not in done]
    if done:
        log.info("%d scores are there already", len(done))
    told = time.monotonic()
    with records.open(shard) as file:
        for number, pair in enumerate(left, start=1):
            try:
                pictures = read_batch(pair.pictures).to(device)
                condition = read_condition(pair.condition, scoring.classes is not None)
                score, lines = scoring.sample(pictures, condition)
            except ValueError as error:
                raise ValueError(f"{pair.condition}: {error}") from error
            records.add(file, Record(pair.name, pair.stamp, score, lines))
            if time.monotonic() - told > EVERY:
                told = time.monotonic()
                log.info("process %d: %d of %d", shard.rank, number, len(left))


def _extras(
    pairs: Sequence[Pair], options: argparse.Namespace, device: torch.device
) -> dict[str, float]:
    found = {}
    if options.fid:
        found["FID"] = fid(pairs, options.fid, device)
    if options.clip:
        found["CLIP score"] = clip_score(pairs, options.clip, device)
    return found


def _write(
    evaluation: Evaluation,
    check: CheckScoring,
    options: argparse.Namespace,
    device: torch.device,
) -> None:
    out: Path = options.out
    write_csv(evaluation, out / "scores.csv")
    legend: Legend = ()
    shown: list[tuple[Case, list[tuple[str, Tensor]]]] = []
    for case in evaluation.cases()[: options.show]:
        pictures, colours = _pictures_of(case, check, device)
        shown.append((case, pictures))
        legend = colours or legend
    write_html(evaluation, out / "report.html", shown, legend)
    (out / "table.txt").write_text(table(evaluation) + "\n", encoding="utf-8", errors=NAMES)
    print(f"{table(evaluation)}\n\nby picture: {out / 'scores.csv'}")
    print(f"the worst cases: {out / 'report.html'}")


def _pictures_of(
    case: Case, check: CheckScoring, device: torch.device
) -> tuple[list[tuple[str, Tensor]], Legend]:
    """What the page shows of a case, and the legend of the difference if there is one."""
    picture = read_batch([case.picture]).to(device)
    condition = read_condition(case.pair.condition, check.classes is not None)
    shown = [("picture", picture[0]), ("condition", condition[0])]
    try:
        result = check.check(picture, condition)
    except ValueError as error:  # class numbers, for example, which have no colours
        log.debug("%s: no difference picture: %s", case.picture, error)
        return shown, ()
    return [
        *shown,
        ("found again", result.recovered[0]),
        ("difference", result.difference[0]),
    ], result.legend


def _source(options: argparse.Namespace, shard: Shard) -> Source:
    folders = options.weights or weight_folders()
    return Source(folders, options.download, _device(options, shard), options.model)


def _device(options: argparse.Namespace, shard: Shard) -> torch.device:
    if options.device:
        return torch.device(options.device)
    if torch.cuda.is_available():
        return torch.device("cuda", shard.local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def _whole(text: str) -> int:
    """A number of things, for an option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 upwards")
    return int(text)


def _seconds(text: str) -> float:
    """A length of time, for an option."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 upwards")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate",
        description="How well pictures follow their conditions. Pictures and conditions belong "
        "together by file name; several pictures of one condition lie in sub-folders. Run it again "
        "to go on after a break; run it under torchrun or `accelerate launch` to share the work.",
    )
    parser.add_argument(
        "kind", choices=[kind.key for kind in Condition], help="what the conditions are"
    )
    parser.add_argument("pictures", type=Path, help="folder of pictures, or of folders of them")
    parser.add_argument("conditions", type=Path, help="folder of conditions")
    parser.add_argument(
        "--protocol",
        choices=("auto", "paper", "check"),
        default="auto",
        help="paper: the published evaluation, figures comparable with its table; check: as the "
        "node Cycle-Consistency Check; auto: paper where there is one (default)",
    )
    parser.add_argument("--out", type=Path, default=Path("out") / "evaluate", help="results")
    parser.add_argument(
        "--method",
        default="",
        help="; ".join(
            f"{key}: {', '.join(method.name for method in row)}"
            for key, row in KINDS.items()
            if len(row) > 1
        )
        + "; the first is the default",
    )
    parser.add_argument("--tolerance", type=_whole, default=0, help="pixels, for --protocol check")
    parser.add_argument(
        "--weights",
        type=Path,
        action="append",
        help="folder of the annotators' weights; may be given more than once",
    )
    parser.add_argument("--download", action="store_true", help="fetch weights that are missing")
    parser.add_argument(
        "--model",
        type=Path,
        help="folder in transformers' format: DPT for depth; "
        "Mask2Former, OneFormer or UperNet for seg",
    )
    parser.add_argument(
        "--fid",
        type=Path,
        metavar="REAL",
        help="also FID to a folder of real "
        "pictures (needs torchmetrics and torch-fidelity, fetches Inception)",
    )
    parser.add_argument(
        "--clip",
        type=Path,
        metavar="PROMPTS",
        help="also CLIP score, prompts as "
        "JSON or folder of .txt (needs torchmetrics and transformers, fetches CLIP)",
    )
    parser.add_argument("--show", type=_whole, default=24, help="worst cases on the page")
    parser.add_argument("--limit", type=_whole, default=0, help="only so many conditions")
    parser.add_argument("--device", default="", help="cpu, cuda:1, ...; else a GPU if there is one")
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=600.0,
        help="seconds to wait for other processes that add nothing",
    )
    return parser
