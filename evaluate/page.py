"""Scores as a table, as CSV, and as one HTML page with the worst cases first."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..cnpp_core.condition import Condition
from .pairs import Pair
from .paper import PUBLISHED
from .records import Record
from .scoring import Scoring

# A file name need not be text; what of it is none is written as \\udc.. and stops nothing.
NAMES = "backslashreplace"
THUMBNAIL = 256  # pixels, the longer side
QUANTILES = (("worst", 0.0), ("lower quarter", 0.25), ("median", 0.5), ("upper quarter", 0.75))

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em; background: #16181d; color: #e6e6e6 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .3em .8em; text-align: left }
tr { border-bottom: 1px solid #333 } .case { margin: 1.5em 0 } figure { display: inline-block;
margin: 0 .6em 0 0; vertical-align: top } img { max-width: 256px; display: block }
figcaption { color: #999 } .legend span { margin-right: 1.2em }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em }
"""


@dataclass(frozen=True)
class Case:
    """One picture with its score, for the list of the worst."""

    pair: Pair
    picture: Path
    score: float
    line: str


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found: all that table, CSV file and page show."""

    kind: Condition
    scoring: Scoring
    pairs: Sequence[Pair]
    records: Sequence[Record]
    settings: dict[str, str]
    paper: bool
    remarks: Sequence[str] = ()
    extras: dict[str, float] = field(default_factory=dict)  # FID, CLIP score

    @property
    def total(self) -> float:
        """The figure for the whole directory."""
        return self.scoring.total([record.score for record in self.records])

    def cases(self) -> list[Case]:
        """Every picture, the worst first; one without a score comes first of all."""
        pairs = {pair.name: pair for pair in self.pairs}
        sign = 1 if self.scoring.higher_is_better else -1
        cases = [
            Case(pairs[record.name], picture, score, line)
            for record in self.records
            for picture, score, line in zip(
                pairs[record.name].pictures, record.score.per_picture, record.lines, strict=True
            )
        ]
        return sorted(cases, key=lambda case: (case.score == case.score, sign * case.score))


def table(evaluation: Evaluation) -> str:
    """The result for a terminal, beside the published figures where the protocol is theirs."""
    rows = [(key, value) for key, value in _summary(evaluation)]
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key:{width}}  {value}" for key, value in rows)


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """One line per picture: condition, picture, score, and the sentence of the metric."""
    with path.open("w", newline="", encoding="utf-8", errors=NAMES) as file:
        writer = csv.writer(file)
        writer.writerow(["condition", "picture", evaluation.scoring.name, "details"])
        for case in evaluation.cases():
            writer.writerow([case.pair.name, str(case.picture), f"{case.score:.6g}", case.line])


def write_html(
    evaluation: Evaluation,
    path: Path,
    shown: Sequence[tuple[Case, Sequence[tuple[str, Tensor]]]],
    legend: Sequence[tuple[str, tuple[float, float, float]]] = (),
) -> None:
    """One file that needs nothing else. shown: cases with captions and pictures (3, H, W)."""
    summary = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in _summary(evaluation)
    )
    colours = "".join(
        f'<span><i style="background:rgb({",".join(str(round(255 * c)) for c in colour)})"></i>'
        f"{html.escape(word)}</span>"
        for word, colour in legend
    )
    cases = "".join(_case(number, *entry) for number, entry in enumerate(shown, start=1))
    title = f"{evaluation.kind.value.label}: {evaluation.scoring.name}"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1><table>{summary}</table>"
        f'<h2>The worst {len(shown)}</h2><p class="legend">{colours}</p>{cases}</html>\n',
        encoding="utf-8",
        errors=NAMES,
    )


def _summary(evaluation: Evaluation) -> list[tuple[str, str]]:
    scoring, text = evaluation.scoring, evaluation.scoring.text
    scores = np.array([case.score for case in evaluation.cases()])
    scores = scores[np.isfinite(scores)]
    rows = [
        ("condition", evaluation.kind.value.label),
        ("conditions", str(len(evaluation.records))),
        ("pictures", str(sum(len(record.score.per_picture) for record in evaluation.records))),
        *((key, value) for key, value in evaluation.settings.items() if value),
        (scoring.name, text(evaluation.total)),
    ]
    for word, share in QUANTILES if len(scores) else ():
        at = share if scoring.higher_is_better else 1 - share
        rows.append((f"  {word} picture", text(float(np.quantile(scores, at)))))
    if evaluation.paper and evaluation.kind in PUBLISHED:
        names = ("ControlNet 1.1", "ControlNet++", "real pictures")
        rows += [
            (f"  published, {name}", text(value))
            for name, value in zip(names, PUBLISHED[evaluation.kind], strict=True)
        ]
    rows += [(name, f"{value:.4g}") for name, value in evaluation.extras.items()]
    return rows + [("note", remark) for remark in evaluation.remarks]


def _case(number: int, case: Case, pictures: Sequence[tuple[str, Tensor]]) -> str:
    figures = "".join(
        f'<figure><img alt="{html.escape(caption)}" src="{_data_url(picture)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, picture in pictures
    )
    where = html.escape(str(case.picture))
    return (
        f'<div class="case"><p>{number}. <b>{html.escape(case.pair.name)}</b>: '
        f"{html.escape(case.line)}<br><small>{where}</small></p>{figures}</div>"
    )


def _data_url(picture: Tensor) -> str:
    pixels = (picture.detach().float().clamp(0, 1) * 255).round().byte().expand(3, -1, -1)
    image = Image.fromarray(np.ascontiguousarray(pixels.movedim(0, -1).cpu().numpy()))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
