"""What the measurement of steering makes of pictures and figures."""

import pytest
import torch
from controlnet_pp.bench import consistency
from controlnet_pp.bench._intervals import Bootstrap, interval
from controlnet_pp.bench._steering import Experiment, Outcome, Way, error_removed
from controlnet_pp.demo.conditions import CONDITIONS
from controlnet_pp.demo.world import HELD_OUT_SEED


def outcome(*ious):
    iou = torch.tensor([ious])
    nothing = torch.zeros_like(iou)
    return Outcome(iou, nothing + 0.5, nothing + 2)


def test_error_removed_counts_up_to_what_the_decoder_can_draw():
    before, ceiling = outcome(0.6, 0.8), outcome(0.9, 0.9)

    def removed(*ious):
        return error_removed(Bootstrap(1, 2), outcome(*ious), before, ceiling).value

    assert removed(0.8, 0.8) == pytest.approx(0.5)
    assert removed(0.6, 0.8) == 0
    assert removed(0.5, 0.7) == pytest.approx(-0.5)


def test_an_interval_is_as_wide_as_theory_says():
    scenes = 400
    values = torch.randn(1, scenes, generator=torch.Generator().manual_seed(1))
    found = interval(Bootstrap(1, scenes).means(values))
    half = 1.96 * values.std().item() / scenes**0.5
    assert found.value == pytest.approx(values.mean().item(), abs=1e-6)
    assert found.high - found.value == pytest.approx(half, rel=0.06)
    assert found.value - found.low == pytest.approx(half, rel=0.06)


def test_an_interval_counts_what_seeds_differ_by():
    means = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])[:, None]
    found = interval(Bootstrap(5, 50).means(means.expand(-1, 50)))
    assert found.low < 1.0 < found.value == 2.0 < 3.0 < found.high


def test_ways_are_compared_in_pairs():
    bootstrap = Bootstrap(2, 20)
    values = torch.rand(2, 20)
    gained = interval(bootstrap.means(values + 0.1) - bootstrap.means(values))
    assert (gained.low, gained.high) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("kind", CONDITIONS)
def test_the_pictures_themselves_are_chosen_and_judged_as_perfect(kind):
    experiment = Experiment(HELD_OUT_SEED, range(4), kind, kind)
    judged = experiment.judge.judge(experiment.batch.images)
    assert judged.iou.tolist() == [1] * 4
    assert experiment.ceiling().iou.mean() > 0.95
    assert min(experiment.follower(slice(4)).scores(experiment.batch.images)) > 0.9


@pytest.mark.parametrize("kind", CONDITIONS)
def test_what_steers_knows_what_the_controlnet_gets_and_nothing_else(kind):
    experiment = Experiment(HELD_OUT_SEED, range(2), kind, kind)
    assert torch.equal(experiment.follower(slice(2)).wanted, experiment.hints)


def test_the_best_candidate_is_taken_picture_by_picture(monkeypatch):
    experiment = Experiment(HELD_OUT_SEED, range(2))
    drawn = [torch.full((2, 3, 8, 8), value) for value in (0.1, 0.2)]
    monkeypatch.setattr(experiment, "candidate", lambda _way, _part, seed, _by: drawn[seed > 0])
    scores = iter([(0.9, 0.1), (0.5, 0.6)])
    follower = type("Follower", (), {"scores": lambda *_: next(scores)})()
    monkeypatch.setattr(experiment, "follower", lambda _part: follower)
    best = experiment.best(Way("two", candidates=2), 0)
    assert best[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.2])


def test_seeds_change_the_noise_and_ways_do_not():
    experiment = Experiment(HELD_OUT_SEED, range(1), steps=2)
    first, again, other = (experiment.draw(consistency.CONTROL, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_promise_that_is_not_kept_fails_and_is_named(capsys):
    def row(low):
        return {"error_removed": {"value": 0.3, "low": low, "high": 0.5}}

    tables = {"edges": {"+ guidance": row(0.1), "all together": row(-0.1)}}
    assert consistency.missed(tables) == 1
    assert "edges: all together may remove nothing" in capsys.readouterr().out
    tables["edges"]["all together"] = row(0.2)
    assert consistency.missed(tables | {"times": {"+ guidance": {"median": 1.2}}}) == 0
    assert consistency.missed({"times": {"+ guidance": {"median": 1.3}}}) == 1
