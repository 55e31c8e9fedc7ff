"""What the measurement of steering makes of pictures and figures."""

import pytest
import torch
from controlnet_pp.bench import consistency
from controlnet_pp.bench._steering import Experiment, Outcome
from controlnet_pp.demo.judge import Judgement


def outcome(*ious):
    iou = torch.tensor(ious)
    nothing = torch.zeros_like(iou)
    return Outcome(Judgement(nothing + 0.5, iou, nothing + 2, nothing), 0.0)


def test_error_removed_counts_up_to_what_the_decoder_can_draw():
    before, ceiling = outcome(0.6, 0.8), outcome(0.9, 0.9)
    assert outcome(0.8, 0.8).removed(before, ceiling) == pytest.approx(0.5)
    assert before.removed(before, ceiling) == 0
    assert outcome(0.5, 0.7).removed(before, ceiling) == pytest.approx(-0.5)


def test_means_go_into_the_file_under_their_own_names():
    assert outcome(0.6, 0.8).as_dict() == pytest.approx(
        {"foreground_iou": 0.7, "standard_error": 0.1, "canny_f1": 0.5, "colour_error": 2}
    )


def test_the_pictures_themselves_are_chosen_and_judged_as_perfect():
    experiment = Experiment(4)
    judged = experiment.judge.judge(experiment.batch.images)
    assert judged.iou.tolist() == [1] * 4
    assert experiment.ceiling().judged.iou.mean() > 0.95
    assert min(experiment.scores(experiment.batch.images, slice(4))) > 0.9


def test_the_best_candidate_is_taken_picture_by_picture(monkeypatch):
    experiment = Experiment(2)
    drawn = [torch.full((2, 3, 8, 8), value) for value in (0.1, 0.2)]
    monkeypatch.setattr(experiment, "draw", lambda _way, _part, seed: drawn[seed > 0])
    scores = iter([(0.9, 0.1), (0.5, 0.6)])
    monkeypatch.setattr(experiment, "scores", lambda _images, _part: next(scores))
    best = experiment.best(consistency.Way("two", candidates=2), 0)
    assert best[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2])


def test_a_missed_aim_fails_and_is_named(capsys):
    rows = {"+ guidance": {"error_removed": 0.5}, "all together": {"error_removed": 0.6}}
    assert consistency.missed({"table": rows}) == 1
    assert "all together removes 60%" in capsys.readouterr().out
    rows["all together"]["error_removed"] = 0.7
    assert consistency.missed({"table": rows, "times": {"+ guidance": {"median": 1.2}}}) == 0
    assert consistency.missed({"times": {"+ guidance": {"median": 1.3}}}) == 1
