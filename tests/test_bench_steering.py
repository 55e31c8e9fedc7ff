"""What the measurement of steering makes of pictures and figures."""

import pytest
import torch
from controlnet_pp.bench import consistency
from controlnet_pp.bench._steering import Outcome, Rig, mud
from controlnet_pp.demo.world import COLOURS


def outcome(*ious):
    iou = torch.tensor(ious)
    return Outcome(torch.zeros_like(iou), iou, torch.zeros_like(iou), 0.0)


def test_mud_is_the_distance_to_the_nearest_colour_of_the_world():
    red = torch.tensor(COLOURS["red"]).view(1, 3, 1, 1).expand(1, 3, 4, 4) / 255
    off = red + torch.tensor([3.0, 0.0, 4.0]).view(1, 3, 1, 1) / 255
    assert mud(torch.cat([red, off])).tolist() == pytest.approx([0, 5], abs=1e-3)


def test_error_removed_counts_up_to_what_the_decoder_can_draw():
    before, ceiling = outcome(0.6, 0.8), outcome(0.9, 0.9)
    assert outcome(0.8, 0.8).removed(before, ceiling) == pytest.approx(0.5)
    assert before.removed(before, ceiling) == 0
    assert outcome(0.5, 0.7).removed(before, ceiling) == pytest.approx(-0.5)


def test_the_pictures_themselves_judge_as_perfect():
    rig = Rig(4)
    judged = rig.judged(rig.batch.images)
    assert judged.iou.tolist() == [1] * 4
    assert judged.f1.tolist() == [1] * 4
    assert judged.mud.max() < rig.ceiling().mud.min()  # only their outlines are mixtures
    assert min(rig.scores(rig.batch.images, slice(4))) > 0.9


def test_the_best_candidate_is_taken_picture_by_picture(monkeypatch):
    rig = Rig(2)
    drawn = [torch.full((2, 3, 8, 8), value) for value in (0.1, 0.2)]
    monkeypatch.setattr(rig, "draw", lambda _way, _part, seed: drawn[seed > 0])
    scores = iter([(0.9, 0.1), (0.5, 0.6)])
    monkeypatch.setattr(rig, "scores", lambda _images, _part: next(scores))
    best = rig.best(consistency.Way("two", candidates=2), 0)
    assert best[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2])


def test_a_missed_aim_fails_and_is_named(capsys):
    rows = {"+ guidance": {"error_removed": 0.5}, "all together": {"error_removed": 0.6}}
    assert consistency.missed({"table": rows}) == 1
    assert "all together removes 60%" in capsys.readouterr().out
    rows["all together"]["error_removed"] = 0.7
    assert consistency.missed({"table": rows, "times": {"+ guidance": {"median": 1.2}}}) == 0
    assert consistency.missed({"times": {"+ guidance": {"median": 1.3}}}) == 1
