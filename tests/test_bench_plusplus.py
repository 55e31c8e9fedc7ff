"""What the measurement of ControlNet++ keeps of its trainings, and when the claim fails."""

from dataclasses import replace

import pytest
import torch
from controlnet_pp.bench import plusplus
from controlnet_pp.demo.model import WEIGHTS, load_demo
from controlnet_pp.demo.pairs import Pairs
from controlnet_pp.demo.plusplus import Further, on_trajectories, plain_steps, published

OWN, PAPER, MORE = plusplus.OWN, plusplus.PAPER, plusplus.MORE


def few(further):
    """A step of it, from one trajectory."""
    return replace(further.faster(1000), rows=2)


@pytest.fixture
def runs(tmp_path):
    runs = plusplus.Runs("seg", 2, tmp_path)
    vars(runs)["pairs"] = Pairs.of("seg", WEIGHTS, 4)
    return runs


def test_a_training_is_judged_once_and_read_afterwards(runs, monkeypatch):
    trial = plusplus.Trial(few(plain_steps()))
    first = runs.outcome(trial, 2)
    assert first.iou.shape == (2, 2)
    assert first.seconds > 0

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Further, "start", refuse)
    again = plusplus.Runs("seg", 2, runs.folder).outcome(trial, 2)
    assert torch.equal(first.iou, again.iou)
    assert first.seconds == again.seconds
    with pytest.raises(AssertionError, match="trained again"):
        runs.outcome(trial, 3)


def test_what_was_trained_draws_the_pictures(runs):
    base = runs.outcome(plusplus.Trial(), 1)
    ruined = replace(few(plain_steps()), training=replace(plain_steps().training, steps=1))
    ruined = replace(ruined, training=replace(ruined.training, learning_rate=1.0))
    assert runs.outcome(plusplus.Trial(ruined), 1).iou.mean() < base.iou.mean() - 0.1


def test_every_setting_but_the_seed_makes_another_key():
    one = on_trajectories("seg")
    others = [
        *(plain_steps(), published("seg"), published("canny"), on_trajectories("canny")),
        *(one.sampled(cfg=1.0), on_trajectories("seg", diffusion=0.0), replace(one, rows=4)),
    ]
    keys = [further.key for further in (one, *others)]
    assert len(set(keys)) == len(keys)
    assert one.of_seed(5).key == one.key
    assert one.of_seed(5).training.seed == 5
    assert plusplus.Trial(one).key != plusplus.Trial(one, weak=4).key


@pytest.mark.parametrize("further", [published("seg", most_t=999), on_trajectories("canny")])
def test_a_reward_reaches_the_controlnet_and_nothing_else(further):
    demo = load_demo(condition="seg" if further.reward.recipe == "published" else "canny")
    kind = "seg" if further.reward.recipe == "published" else "canny"
    session, objective = few(further).start(
        demo, Pairs.of(kind, WEIGHTS, 4), plusplus.load_segmenter()
    )
    before = {k: v.clone() for k, v in demo.unet.state_dict().items()}
    session.run(objective)
    assert float(objective.values["reward"]) > 0
    assert all(torch.equal(before[k], v) for k, v in demo.unet.state_dict().items())


def table(**changes):
    rows = {
        MORE: {"seconds": 230.0},
        PAPER: {"seconds": 200.0},
        OWN: {
            "seconds": 200.0,
            "error_removed": {"value": 0.2, "low": 0.1, "high": 0.3},
            "colours_worse": {"value": 0.0, "low": -0.1, "high": 0.1},
        },
    }
    rows[OWN] |= {k: v for k, v in changes.items() if k != "plain"}
    rows[MORE]["seconds"] = changes.get("plain", 230.0)
    return rows


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"error_removed": {"value": 0.2, "low": -0.1, "high": 0.5}}, "may remove nothing"),
        ({"colours_worse": {"value": 0.2, "low": 0.1, "high": 0.3}}, "colours worse"),
        ({"plain": 190.0}, "less computing"),
        ({"error_removed": {"value": 0.1, "low": 0.05, "high": 0.2}}, "nowhere 15%"),
    ],
)
def test_the_claim_fails_in_words(changes, word, capsys):
    assert plusplus.missed({"seg": table()}) == 0
    assert plusplus.missed({"seg": table(**changes)}) == 1
    assert word in capsys.readouterr().out
