"""The grid of a search, its table, and the ranking of a batch."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.check import check_consistency
from controlnet_pp.cnpp_core.consistency.search import (
    SEEDS,
    Standings,
    Trial,
    grid,
    parse_presets,
    parse_strengths,
    ranking_text,
)
from controlnet_pp.cnpp_core.control.scales import PRESETS


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.6, 0.8, 1.0", (0.6, 0.8, 1.0)),
        ("1", (1.0,)),
        (" .5;1e-1\n0 ", (0.5, 0.1, 0.0)),
        ("0.5 1", (0.5, 1.0)),
        ("0.5，1、2；3", (0.5, 1.0, 2.0, 3.0)),
        ("1, 1.0, 0.5, 1", (1.0, 0.5)),
        ("-0, 0", (0.0,)),
        ("10", (10.0,)),
    ],
)
def test_strengths_are_read_in_every_common_spelling_and_each_once(text, wanted):
    assert parse_strengths(text) == wanted


@pytest.mark.parametrize("text", ["", "  ", ",;", "\n"])
def test_no_strength_is_refused(text):
    with pytest.raises(ValueError, match="strengths is empty"):
        parse_strengths(text)


@pytest.mark.parametrize("word", ["strong", "-0.1", "10.01", "nan", "inf", "0.5-1", "50%"])
def test_what_is_no_strength_is_named(word):
    with pytest.raises(ValueError, match=r"strengths holds '.*'; expected numbers from 0 to 10"):
        parse_strengths(f"1, {word}")


def test_presets_are_read_in_every_common_spelling_and_each_once():
    assert parse_presets("uniform, Structure；guess  mode，\nMID ONLY, structure") == (
        "uniform",
        "structure",
        "guess mode",
        "mid only",
    )
    assert parse_presets(", ".join(PRESETS)) == PRESETS
    assert parse_presets(" , ") == ("",)


def test_an_unknown_preset_is_named_beside_those_there_are():
    with pytest.raises(ValueError, match="'strukture'") as error:
        parse_presets("uniform, strukture")
    assert all(name in str(error.value) for name in PRESETS)


def test_the_grid_has_every_combination_once_seed_by_seed():
    trials = grid(7, 2, (0.5, 1.0), ("uniform", "detail"), most=8)
    assert len(set(trials)) == 8
    assert [trial.seed for trial in trials] == [7] * 4 + [8] * 4
    assert {trial.setting for trial in trials} == {
        (strength, preset) for strength in (0.5, 1.0) for preset in ("uniform", "detail")
    }
    assert trials[0] == Trial(7, 0.5, "uniform")


def test_without_strength_presets_make_no_difference():
    trials = grid(0, 1, (0.0, 1.0), ("uniform", "detail"), most=4)
    assert [trial.setting for trial in trials] == [(0.0, ""), (1.0, "uniform"), (1.0, "detail")]


def test_seeds_go_on_at_0_behind_the_last_one():
    assert [trial.seed for trial in grid(SEEDS - 1, 3, (1.0,), ("",), 9)] == [SEEDS - 1, 0, 1]


def test_an_absurd_grid_is_refused_with_its_size():
    with pytest.raises(ValueError, match=r"8 seeds x 3 strengths x 2 presets make 48 .* is 24"):
        grid(0, 8, (0.5, 0.8, 1.0), ("uniform", "detail"), most=24)
    assert len(grid(0, 4, (0.5, 0.8, 1.0), ("uniform", "detail"), most=24)) == 24


def standings(scores, kind=Condition.CANNY, trials=None):
    table = Standings(kind.measure())
    trials = trials or [Trial(seed, 1.0) for seed in range(len(scores))]
    news = [table.add(trial, score) for trial, score in zip(trials, scores, strict=True)]
    return table, news


def test_the_best_is_the_highest_score_or_the_smallest_error():
    scores = [0.3, 0.9, 0.1, 0.9]
    assert standings(scores)[0].order == [1, 3, 0, 2]
    for kind in (Condition.DEPTH, Condition.NORMAL):
        assert standings(scores, kind)[0].order == [2, 0, 1, 3]


def test_of_equal_scores_the_earlier_trial_stays_the_best():
    assert standings([0.5, 0.5, 0.4, 0.6, 0.6])[1] == [True, False, False, True, False]
    assert standings([0.5, 0.5, 0.4], Condition.DEPTH)[1] == [True, False, True]


def test_the_table_names_the_best_and_lists_all_in_order():
    trials = [Trial(9, 0.8, "detail"), Trial(10, 1.0, "structure"), Trial(11, 1.25, "uniform")]
    heading, *lines = standings([0.25, 0.875, 1.0], trials=trials)[0].table().splitlines()
    assert heading == (
        "Best of 3: 100.0% with seed 11, strength 1.25, uniform (Edge F1 (exact pixels), higher "
        "is better)"
    )
    assert lines == [
        "#1  100.0%  seed 11, strength 1.25, uniform",
        "#2   87.5%  seed 10, strength 1, structure",
        "#3   25.0%  seed 9, strength 0.8, detail",
    ]


def test_the_table_of_an_error_says_that_lower_is_better():
    heading, first, _ = standings([20.0, 3.0], Condition.DEPTH)[0].table().splitlines()
    assert "lower is better" in heading
    assert first.startswith("#1")
    assert "3.00" in first


def test_means_tell_which_strength_and_preset_were_best_on_average():
    trials = grid(0, 2, (0.5, 1.0), ("uniform", "detail"), 8)
    scores = [0.8 * t.strength + 0.1 * (t.preset == "detail") + 0.02 * t.seed for t in trials]
    *_, strengths, presets = standings(scores, trials=trials)[0].table().splitlines()
    assert strengths == "Mean by strength: 0.5 46.0%, 1 86.0%"
    assert presets == "Mean by preset: uniform 61.0%, detail 71.0%"


def test_means_that_would_repeat_the_table_are_left_out():
    one_each = [Trial(0, 0.5), Trial(0, 1.0)]
    assert "Mean" not in standings([0.1, 0.2], trials=one_each)[0].table()
    assert "Mean" not in standings([0.1, 0.2])[0].table()


def checked(maps, wanted, kind=Condition.DEPTH):
    pictures = torch.zeros(len(maps), 3, *maps.shape[-2:])
    return check_consistency(pictures, wanted, lambda _: maps, kind.measure())


def test_the_ranking_lists_all_pictures_and_marks_the_chosen():
    wanted = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    noise = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = wanted + torch.tensor([0.3, 0.0, 0.2, 0.1]).view(-1, 1, 1, 1) * noise
    result = checked(maps.clamp(0, 1), wanted)
    heading, *lines = ranking_text(result, 2, Condition.DEPTH.measure()).splitlines()
    assert "2 of 4 chosen, the best 0.00" in heading
    assert [line.split(":")[0] for line in lines[:4]] == [
        "#1 picture 2 (chosen)",
        "#2 picture 4 (chosen)",
        "#3 picture 3",
        "#4 picture 1",
    ]
    assert all(line.endswith(result.lines[i]) for line, i in zip(lines, (1, 3, 2, 0), strict=False))


def test_a_ranking_of_fewer_pictures_than_wanted_says_so():
    wanted = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    text = ranking_text(checked(wanted, wanted), 5, Condition.DEPTH.measure())
    assert "1 of 1 chosen" in text
    assert "(5 were asked for)" in text


def test_the_ranking_keeps_the_notes_of_the_check():
    wanted = torch.zeros(1, 1, 32, 32)
    wanted[..., 16, :] = 1.0
    found = torch.zeros(2, 1, 64, 64)
    found[..., 32, :] = 1.0
    result = checked(found, wanted, Condition.CANNY)
    assert "Note: the condition, 32x32, was brought to the picture's 64x64" in ranking_text(
        result, 1, Condition.CANNY.measure()
    )
