"""What the measurement of training makes of its numbers, and what it measures."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from controlnet_pp.cnpp_core.diffusion.ddim import ddim_timesteps, sample_ddim
from controlnet_pp.cnpp_core.training.modes import Mode, set_mode
from controlnet_pp.tests.training.tiny import SCHEDULE, batch, denoiser, seeded

pytest.importorskip("diffusers", reason="the measurement is beside diffusers")

from controlnet_pp.bench import _pairs, _training, training_cost
from controlnet_pp.bench._training import DIFFUSERS, LOCKED, MIDDLE, RECOMPUTED
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.training.memory import peak_of_a_batch
from controlnet_pp.cnpp_core.training.reward import RewardModel


@pytest.fixture
def rewarded():
    """Tiny networks, the mean of latents as a map."""
    model = denoiser()
    set_mode(model, Mode.SD_LOCKED)

    def decode(latents):
        return latents[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)

    judge = RewardModel.of(Condition.SOFTEDGE, decode, lambda x: x.mean(1, keepdim=True))
    one = batch(rows=1)
    one = replace(one, wanted=one.hint[:, :1])
    return _training.Rewarded(model, judge, one, [])


def test_the_gradient_goes_through_all_steps_of_the_sampler(rewarded):
    model, one = rewarded.denoiser, rewarded.batch
    hint = model.controlnet.input_hint_block[0].bias

    def loss():
        def eps(x, t):
            residuals = model.controlnet(x, one.hint, t, one.context)
            return model.unet(x, t, one.context, residuals=residuals)

        noise = torch.randn(one.x0.shape, generator=seeded(0))
        x0 = sample_ddim(eps, noise, SCHEDULE, ddim_timesteps(3))
        picture = (rewarded.model.decode(x0 / rewarded.model.latent_scale) / 2 + 0.5).clamp(0, 1)
        return (picture.mean(1, keepdim=True) - one.wanted).square().mean()

    ours = _training.through_sampling(rewarded, 3)(seeded(0))
    theirs = loss()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    gradients = [torch.autograd.grad(value, hint)[0] for value in (ours, theirs)]
    assert gradients[0].any()
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-8)


def test_every_step_of_the_sampler_takes_as_much_memory_again(rewarded):
    trained = list(rewarded.denoiser.controlnet.parameters())

    def working(objective):
        return peak_of_a_batch(lambda: objective(seeded(0)), trained)

    one = working(_training.one_step(rewarded))
    steps = [working(_training.through_sampling(rewarded, n)) for n in (1, 2, 3, 4)]
    growth = [after - before for before, after in pairwise(steps)]
    assert one == pytest.approx(steps[0], rel=0.1)
    assert growth[2] == pytest.approx(growth[1], rel=0.02)
    assert growth[1] > 0.5 * one


def test_ours_and_theirs_are_trainings_of_the_same_size():
    config = _training.NetworkConfig(model_channels=32)
    one = _training.random_batch(config, 64)
    counts = []
    for who in (DIFFUSERS, LOCKED):
        if who == DIFFUSERS:
            train = _training.their_training(config, one)
        else:
            train, found = _training.our_training(who, config, one, 2)
            assert found["planned"] > found["batch"] > 0
        counts.append([])
        train(2, lambda: counts[-1].append(1))
    assert counts == [[1, 1], [1, 1]]


STEP = {"peak": 1000.0, "seconds": [2.0, 2.0], "planned": 1000.0, "batch": 300.0}


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """Numbers instead of measurements, changed by name; the results and the exit status."""

    def run(changes, *argv):
        def measured(task, name, *rest):
            if task == "step":
                return {**STEP, **changes.get(name, {})}
            sampling = rest[0]
            return {"planned": 500.0, "working": 10 + 3.0 * sampling, "seconds": [1.0]}

        monkeypatch.setattr(training_cost, "measured", measured)
        monkeypatch.setattr(_pairs, "RESULTS", tmp_path)
        code = training_cost.main(argv)
        (file,) = tmp_path.glob("*.json")
        return code, json.loads(file.read_text(encoding="utf-8"))

    return run


def test_steps_are_compared_with_those_of_diffusers(measure, capsys):
    less = {"peak": 800.0, "planned": 800.0, "seconds": [3.0, 3.0]}
    code, results = measure({RECOMPUTED: less}, "--only", "step")
    said = capsys.readouterr().out
    assert code == 0
    assert set(results["step"]) == {DIFFUSERS, LOCKED, MIDDLE, RECOMPUTED}
    assert f"{RECOMPUTED:<24}   3.00 s (3.00 to 3.00), peak 0.78 GB" in said
    assert (
        "time x1.50, memory x0.800 of theirs; planned +0.0%; a batch with its gradients 300 MB"
        in said
    )
    assert len(results["step"][LOCKED]["seconds"]) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({LOCKED: {"seconds": [2.2, 2.2]}}, "SD locked takes 1.10 of the time"),
        ({LOCKED: {"peak": 1020.0}}, "SD locked takes 1.020 of the memory"),
        ({MIDDLE: {"planned": 1200.0}}, "middle only was planned +20%"),
    ],
)
def test_what_is_beyond_an_aim_is_said_and_fails(measure, capsys, changes, said):
    assert measure(changes, "--only", "step")[0] == 1
    assert f"beyond the aim: {said}" in capsys.readouterr().out


def test_the_line_through_the_steps_leads_to_those_of_a_picture(measure, capsys):
    _, results = measure({}, "--only", "reward")
    demo = results["reward"]["demo"]
    assert demo["mb_a_step"] == pytest.approx(3)
    assert demo["mb_of_50"] == pytest.approx(160)
    assert demo["rows"]["0"]["working"] == 10
    assert "3.0 MB a step, so 0.2 GB for 50, 16 times those after one step" in (
        capsys.readouterr().out
    )
