"""What table, CSV file and page say of known scores, and totals of unequal groups."""

from __future__ import annotations

import base64
import csv
import html
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from controlnet_pp.annotators.ade20k import to_colours
from controlnet_pp.annotators.kinds import ADE20K
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.evaluate.page import Evaluation, table, write_csv, write_html
from controlnet_pp.evaluate.pairs import Pair
from controlnet_pp.evaluate.paper import SampleScore, paper_protocol
from controlnet_pp.evaluate.records import Record
from controlnet_pp.evaluate.scoring import CheckScoring, PaperScoring, Scoring
from PIL import Image


def nothing(_: torch.Tensor) -> torch.Tensor:
    raise AssertionError("no picture is looked at")


def evaluated(
    kind: Condition, scoring: Scoring, *samples: tuple[float, ...], **changes
) -> Evaluation:
    """Conditions a, b, ... with pictures of these scores; a condition's own score is their mean."""
    pairs, records = [], []
    for name, each in zip("abcdefgh", samples, strict=False):
        pictures = tuple(Path(f"group_{i}") / f"{name}.png" for i in range(len(each)))
        pairs.append(Pair(name, Path(f"{name}.png"), pictures))
        score = SampleScore(sum(each) / len(each), each)
        records.append(Record(name, [], score, [f"line {one}" for one in each]))
    return Evaluation(kind, scoring, pairs, records, {}, paper=False, **changes)


def rows(evaluation: Evaluation) -> dict[str, str]:
    """The table, by the words at the left."""
    lines = (line.strip().partition("  ") for line in table(evaluation).splitlines())
    return {word: value.strip() for word, _, value in lines}


DEPTH = PaperScoring(Condition.DEPTH, nothing)
CANNY = PaperScoring(Condition.CANNY, nothing)


# Quantiles and order


@pytest.mark.parametrize(
    ("kind", "scoring", "expected"),
    [
        (Condition.DEPTH, DEPTH, ("50.00", "40.00", "30.00", "20.00")),
        (Condition.CANNY, CANNY, ("10.00", "20.00", "30.00", "40.00")),
    ],
    ids=["an error", "a score"],
)
def test_the_worst_picture_is_that_of_the_largest_error_or_of_the_lowest_score(
    kind, scoring, expected
):
    found = rows(evaluated(kind, scoring, (30.0, 10.0), (50.0,), (20.0, 40.0)))
    words = ("worst", "lower quarter", "median", "upper quarter")
    assert tuple(found[f"{word} picture"] for word in words) == expected


def test_quantiles_are_of_the_pictures_that_have_a_score():
    found = rows(evaluated(Condition.DEPTH, DEPTH, (math.nan, 10.0), (math.inf, 30.0)))
    assert found["worst picture"] == "30.00"
    assert found["median picture"] == "20.00"
    without = rows(evaluated(Condition.DEPTH, DEPTH, (math.nan,)))
    assert not any("picture" in word for word in without if word != "pictures")


@pytest.mark.parametrize(
    ("kind", "scoring", "order"),
    [(Condition.DEPTH, DEPTH, [50, 30, 20, 10]), (Condition.CANNY, CANNY, [10, 20, 30, 50])],
    ids=["an error", "a score"],
)
def test_the_worst_come_first_and_before_them_what_has_no_score(tmp_path, kind, scoring, order):
    evaluation = evaluated(kind, scoring, (30.0, 10.0), (math.nan, 50.0), (20.0,))
    found = [case.score for case in evaluation.cases()]
    assert math.isnan(found[0])
    assert found[1:] == order
    write_csv(evaluation, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        assert [row["details"] for row in csv.DictReader(file)][1:] == [
            f"line {float(score)}" for score in order
        ]


# Totals of conditions that have one picture, two and five


UNEQUAL = ((90.0,), (60.0, 20.0), (10.0, 20.0, 30.0, 40.0, 50.0))
BY_PICTURE, BY_CONDITION = 320 / 8, (90 + 40 + 30) / 3


@pytest.mark.parametrize(
    ("kind", "scoring", "total"),
    [
        (Condition.DEPTH, CheckScoring(Condition.DEPTH, nothing), BY_PICTURE),
        (Condition.CANNY, CheckScoring(Condition.CANNY, nothing), BY_PICTURE),
        (Condition.DEPTH, DEPTH, BY_PICTURE),
        (Condition.CANNY, CANNY, BY_CONDITION),
    ],
    ids=["depth, check", "canny, check", "depth, paper", "canny, paper"],
)
def test_the_total_where_conditions_have_unequal_numbers_of_pictures(kind, scoring, total):
    evaluation = evaluated(kind, scoring, *UNEQUAL)
    assert evaluation.total == pytest.approx(total)
    found = rows(evaluation)
    assert found["conditions"] == "3"
    assert found["pictures"] == "8"


def test_the_total_of_segmentation_weighs_every_pixel_of_every_picture():
    protocol = paper_protocol(Condition.SEG, ((0, 0, 1), (0, 0, 2)))
    wanted = torch.tensor([[[0, 0, 1, 1]]])
    right, wrong = wanted, 1 - wanted
    samples = [
        protocol.sample(right, wanted),
        protocol.sample(torch.cat([wrong, wrong, wrong]), wanted),
    ]
    # of each class 2 pixels are right, 6 missed and 6 found where the other was wanted
    assert protocol.total(samples) == pytest.approx(100 * 2 / 14)


# Classes of one colour


LIKE, FIRST = 48, 6  # ADE20K paints both in one colour


@pytest.mark.parametrize(("found", "score"), [(LIKE, 100.0), (FIRST, 100.0), (2, 0.0)])
def test_a_class_is_right_where_the_condition_has_its_colour(found, score):
    raw = torch.full((2, 1, 8, 8), found)
    for painted in (LIKE, FIRST):
        condition = to_colours(torch.full((1, 8, 8), painted))
        sample, _ = PaperScoring(Condition.SEG, lambda _: raw, ADE20K).sample(
            torch.zeros(2, 3, 8, 8), condition
        )
        assert sample.score == score
        assert sample.per_picture == (score, score)


def test_a_class_is_right_where_the_condition_has_its_number():
    raw = torch.full((1, 1, 8, 8), LIKE)
    scoring = PaperScoring(Condition.SEG, lambda _: raw, ADE20K)
    for number, score in ((LIKE, 100.0), (FIRST, 0.0)):
        condition = torch.full((1, 1, 8, 8), (number + 1) / 255)
        assert scoring.sample(torch.zeros(1, 3, 8, 8), condition)[0].score == score


# What the page quotes


def test_every_word_of_somebody_else_is_escaped_on_the_page(tmp_path):
    name, path, line = "<i>&a", 'x"><b>.png', "<u>1</u>"
    caption, word, remark, model = '"><v>', "<em>", "<q>&amp;", "<s>"
    settings = {"model": model}
    pair = Pair(name, Path("c.png"), (Path(path),))
    record = Record(name, [], SampleScore(1.0, (1.0,)), [line])
    evaluation = Evaluation(
        Condition.CANNY, CANNY, [pair], [record], settings, False, [remark], {"<FID>": 1.0}
    )
    shown = [(evaluation.cases()[0], [(caption, torch.zeros(3, 4, 4))])]
    write_html(evaluation, tmp_path / "report.html", shown, [(word, (0.0, 0.0, 0.0))])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    words = {name: 1, path: 1, line: 1, caption: 2, word: 1, remark: 1, model: 1, "<FID>": 1}
    for text, times in words.items():
        assert text not in page
        assert page.count(html.escape(text)) == times, text


def test_pictures_lie_in_the_page_small_and_in_their_colours(tmp_path):
    left, right = (1.0, 0.5, -1.0), (0.2, 2.0, 0.0)
    wide = torch.empty(3, 40, 512)
    wide[..., :256], wide[..., 256:] = (torch.tensor(c)[:, None, None] for c in (left, right))
    grey = torch.full((1, 4, 6), 0.6)
    evaluation = evaluated(Condition.CANNY, CANNY, (30.0,))
    shown = [(evaluation.cases()[0], [("wide", wide), ("grey", grey)])]
    legend = [("found", (1.0, 0.5, 0.0)), ("missed", (0.0, 0.25, 1.0))]
    write_html(evaluation, tmp_path / "report.html", shown, legend)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    urls = re.findall(r'alt="(\w+)" src="data:image/png;base64,([^"]+)"', page)
    pictures = {name: Image.open(io.BytesIO(base64.b64decode(data))) for name, data in urls}
    assert pictures["wide"].size == (256, 20)
    assert pictures["wide"].getpixel((20, 9)) == (255, 128, 0)
    assert pictures["wide"].getpixel((230, 9)) == (51, 255, 0)
    assert pictures["grey"].size == (6, 4)
    assert pictures["grey"].getcolors() == [(24, (153, 153, 153))]
    assert "rgb(255,128,0)" in page
    assert "rgb(0,64,255)" in page
    assert "<h2>The worst 1</h2>" in page
    assert "<p>1. <b>a</b>: line 30.0<br>" in page


def test_the_published_figures_stand_beside_a_protocol_that_is_theirs():
    evaluation = replace(evaluated(Condition.DEPTH, DEPTH, (30.0,)), paper=True)
    found = rows(evaluation)
    names = ("ControlNet 1.1", "ControlNet++", "real pictures")
    assert tuple(found[f"published, {name}"] for name in names) == ("35.90", "28.32", "0.00")
    assert not any("published" in word for word in rows(replace(evaluation, paper=False)))


# Conditions of another size


def test_a_condition_of_another_size_is_brought_to_that_of_the_pictures():
    edges = (torch.rand(1, 1, 8, 12, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    larger = edges.repeat_interleave(2, 2).repeat_interleave(2, 3)
    scoring = PaperScoring(Condition.CANNY, lambda _: larger)
    sample, lines = scoring.sample(torch.zeros(1, 3, 16, 24), edges)
    assert sample.score == 100.0
    assert lines == ["canny F1 x 100 100.00"]
    with pytest.raises(ValueError, match="the condition is 8x12 pixels and the pictures are 24x16"):
        scoring.sample(torch.zeros(1, 3, 16, 24), edges.mT)
