"""What a training is said to take before it starts, and blocks that are computed again."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from controlnet_pp.cnpp_core.training.checkpoints import Checkpoints
from controlnet_pp.cnpp_core.training.memory import peak_of_a_batch
from controlnet_pp.cnpp_core.training.plan import plan
from controlnet_pp.cnpp_core.training.recompute import recomputed
from controlnet_pp.cnpp_core.training.trainer import Trainer
from controlnet_pp.tests.training.regression import SETTINGS, Regression, same_weights, trainer_of
from controlnet_pp.tests.training.tiny import batch, denoiser
from torch import nn

ROOT = Path(__file__).resolve().parent.parent.parent
PEAK = """
import sys
sys.path.insert(0, sys.argv[1])
import cli
cli.part("tests.training.peak").main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "less")
"""


def test_the_plan_says_what_is_trained_how_long_and_where_it_goes(tmp_path, caplog):
    caplog.set_level("INFO")
    module, other = Regression(), nn.Linear(3, 2)
    module.register_parameter("fixed", nn.Parameter(torch.zeros(10), requires_grad=False))
    settings = replace(SETTINGS, steps=100, accumulate=2)
    trainer = trainer_of(module, settings, tmp_path / "not" / "there")
    made = plan(trainer, module.loss, 4, pictures=50, others=[other.requires_grad_(False)])
    assert (made.trainable, made.frozen) == (2, 18)
    assert (made.steps, made.batch, made.epochs) == (100, 8, 16)
    assert (made.weights, made.averaged, made.optimizer) == (4 * 20, 4 * 12, 4 * 4)
    assert made.disk == 3 * (4 * 12 + 4 * 12 + 4 * 4)
    assert made.free_disk > 0
    assert not (tmp_path / "not").exists()
    for said in ("trains 2 parameters beside 18", "100 steps of 8 pictures, 16 times", "not/there"):
        assert said in made.text().replace(os.sep, "/")
        assert said in caplog.text.replace(os.sep, "/")
    assert "NOT ENOUGH" not in made.text()
    assert "NOT ENOUGH" in replace(made, free_disk=1).text()


def test_the_disk_that_is_planned_is_what_checkpoints_take(tmp_path):
    module = Regression()
    module.line = nn.Linear(100, 100)
    trainer = Trainer(module, replace(SETTINGS, steps=7), checkpoints=Checkpoints(tmp_path, 3, 1))

    def loss(generator):
        return module.line(torch.randn(2, 100, generator=generator)).square().mean()

    planned = plan(trainer, loss, 2).disk
    trainer.run(loss)
    (one,) = tmp_path.glob("*.safetensors")
    assert 2 * one.stat().st_size == pytest.approx(planned, rel=0.15)  # random states, a header


def test_a_plan_changes_nothing():
    module = nn.ModuleDict({"line": nn.Linear(1, 1), "norm": nn.BatchNorm1d(1)}).eval()
    trainer, before = Trainer(module, SETTINGS), copy.deepcopy(module)
    torch.manual_seed(3)

    def loss(generator):
        x = torch.rand(8, 1) + torch.rand(8, 1, generator=generator)
        return module["norm"](module["line"](x)).square().mean()

    plan(trainer, loss, 8)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(3)))
    assert same_weights(module, before)
    assert all(parameter.grad is None for parameter in module.parameters())
    start = torch.Generator().manual_seed(SETTINGS.seed)
    assert torch.equal(trainer.generator.get_state(), start.get_state())
    assert not module.training


def test_what_a_batch_takes_is_counted_tensor_by_tensor():
    x = torch.ones(1000)
    weight = nn.Parameter(torch.ones(1000))

    def loss():
        return (weight * x).exp().sum()  # the exponential is kept, its argument let go

    # Two at a time, forwards and backwards, beside single numbers.
    assert 8000 <= peak_of_a_batch(loss, [weight]) < 8100
    assert 24000 <= peak_of_a_batch(loss, [weight], scale=3) < 24300
    assert weight.grad is None


def loss_of(model, rows: int):
    state_batch = batch(rows)
    t = torch.full((rows,), 300)

    def loss(_=None):
        residuals = model.controlnet(state_batch.x0, state_batch.hint, t, state_batch.context)
        out = model.unet(state_batch.x0, t, state_batch.context, residuals=residuals)
        return out.square().mean()

    return loss


def test_a_plan_of_a_small_batch_is_that_of_the_large_one():
    model = denoiser()
    trainer = Trainer(model.controlnet, SETTINGS)
    whole = plan(trainer, loss_of(model, 8), 8)
    small = plan(trainer, loss_of(model, 2), 8, scale=4)
    assert small.working == pytest.approx(whole.working, rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux has it")
@pytest.mark.parametrize("way", ["less", pytest.param("all", marks=pytest.mark.slow)])
def test_the_planned_peak_is_that_of_the_process(way):
    # Large tensors of their own pages, so that what is let go is no longer the process's.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK, str(ROOT), "4", "2", way]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    planned, measured = json.loads(done.stdout)
    assert planned == pytest.approx(measured, rel=0.15)


def test_recomputed_blocks_give_the_same_gradients_in_less_memory():
    model = denoiser()
    loss, trained = loss_of(model, 8), list(model.controlnet.parameters())
    keys = list(model.controlnet.state_dict())
    value = loss()
    usual = torch.autograd.grad(value, trained)
    most = peak_of_a_batch(loss, trained)
    with recomputed(model.controlnet, model.unet):
        assert list(model.controlnet.state_dict()) == keys
        again = loss()
        gradients = torch.autograd.grad(again, trained)
        least = peak_of_a_batch(loss, trained)
    assert torch.equal(again, value)
    for gradient, expected in zip(gradients, usual, strict=True):
        torch.testing.assert_close(gradient, expected)
    assert least < 0.75 * most
    assert not any("forward" in vars(m) for m in model.controlnet.modules())
    assert peak_of_a_batch(loss, trained) == most


def test_recomputation_names_its_copies_own_blocks():
    model = denoiser()
    with recomputed(model.controlnet):
        other = copy.deepcopy(model.controlnet)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    one = batch(2)
    t = torch.tensor([1, 2])
    assert not any(r.any() for r in other(one.x0, one.hint, t, one.context))
