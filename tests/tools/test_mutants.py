"""What a mutant is, which of them are drawn, and the score of a sample."""

from __future__ import annotations

from pathlib import Path

import pytest
from controlnet_pp.tools.mutants import (
    Mutant,
    Score,
    annotation_spans,
    compiles,
    equivalent,
    shuffled,
    wilson,
)
from scipy.stats import binomtest

SOURCE = """@cached
def half(x: int | None = 1 | 2) -> float | None:
    y: int | str = x
    return y / 2
"""


def mutant(before: str, after: str) -> Mutant:
    return Mutant.of("a.py", SOURCE, SOURCE.replace(before, after))


def test_a_mutant_is_its_line_and_what_becomes_of_it():
    found = mutant("/", "//")
    assert found == Mutant("a.py", 4, "return y / 2", "return y // 2")
    assert found.text() == "a.py:4\n    - return y / 2\n    + return y // 2"


def test_a_line_may_go():
    assert mutant("@cached\n", "") == Mutant("a.py", 1, "@cached", "")


def test_lines_added_elsewhere_leave_the_key():
    moved = Mutant.of("a.py", f"\n{SOURCE}\n", f"\n{SOURCE.replace('/', '*')}\n")
    assert moved.key == mutant("/", "*").key
    assert moved.line != mutant("/", "*").line


def test_all_that_a_signature_and_a_variable_promise_are_annotations():
    rows = SOURCE.splitlines()
    inside = [rows[line - 1][start:stop] for (line, start), (_, stop) in annotation_spans(SOURCE)]
    assert sorted(inside) == ["float | None", "int | None", "int | str"]


def test_a_text_that_python_refuses_does_not_compile():
    assert compiles(SOURCE)
    assert not compiles(SOURCE.replace("/", "+/"))


IDENTITIES = [("a.py", "Add_Sub", f"x + {number}") for number in range(50)]


def test_a_seed_is_an_order_and_another_seed_another():
    order = shuffled(IDENTITIES, seed=1)
    assert sorted(order) == list(range(50))
    assert order == shuffled(IDENTITIES, seed=1)
    assert order not in (list(range(50)), shuffled(IDENTITIES, seed=2))


def test_what_comes_and_goes_leaves_the_order_of_the_rest():
    order = [IDENTITIES[place] for place in shuffled(IDENTITIES, seed=1)]
    rest = IDENTITIES[::-2]
    assert [rest[place] for place in shuffled(rest, seed=1)] == [i for i in order if i in rest]


def test_equal_ones_are_drawn_apart():
    order = shuffled([IDENTITIES[0]] * 9 + IDENTITIES[1:], seed=1)
    assert sorted(order) == list(range(58))
    assert max(order.index(place) for place in range(9)) > 20


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (1, 1), (127, 150), (150, 150)])
def test_the_interval_is_that_of_scipy(hits: int, trials: int):
    theirs = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_without_trials_nothing_is_known():
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_score_is_a_share_of_those_that_are_not_equivalent():
    alike, missed = mutant("y / 2", "y * 0.5"), mutant("/", "%")
    fates = [*((mutant("/", op), True) for op in "+-*"), (alike, False), (missed, False)]
    score = Score.of("half", 40, fates, {alike.key: "the same number"})
    assert score.share == 3 / 4
    assert score.as_dict() == {
        "possible": 40,
        "caught": 3,
        "survived": 1,
        "equivalent": 1,
        "share": 0.75,
        "interval_95": [round(end, 4) for end in wilson(3, 4)],
    }
    head, *rest = score.text().splitlines()
    assert head.startswith("half: 3 of 4 caught, 75.0%")
    assert rest == missed.text().splitlines()


def test_what_a_test_catches_is_not_equivalent():
    caught = mutant("/", "+")
    with pytest.raises(ValueError, match=r"lists what a test catches:\na.py:4"):
        Score.of("half", 40, [(caught, True)], {caught.key: "said to be alike"})


def test_every_mutant_that_is_listed_as_equivalent_changes_lines_that_are_there(repo: Path):
    for file, before, after in equivalent():
        lines = [line.strip() for line in (repo / file).read_text("utf-8").splitlines()]
        assert before in "\n".join(lines), f"{file} has changed"
        assert before != after


def test_every_equivalent_mutant_has_its_reason():
    assert all(len(reason.split()) > 2 for reason in equivalent().values())
