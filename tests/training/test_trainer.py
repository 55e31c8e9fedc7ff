"""The training loop: what it computes, when it stops, what it refuses."""

from __future__ import annotations

import copy
import math
import signal
import sys
import threading
import types
from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.training.settings import TrainSettings
from controlnet_pp.cnpp_core.training.trainer import Trainer
from controlnet_pp.cnpp_core.training.watch import ENOUGH, PATIENCE, Watch
from controlnet_pp.tests.training.regression import SETTINGS, Regression, curve, same_weights
from torch import nn

SHORT = replace(SETTINGS, steps=12)


def test_training_finds_the_minimum_and_averages_towards_it():
    module = Regression()
    trainer = Trainer(module, SETTINGS)
    assert trainer.run(module.loss)
    for network in (module, trainer.averaged):
        assert network.line.weight.item() == pytest.approx(3, abs=0.02)
        assert network.line.bias.item() == pytest.approx(-1, abs=0.02)
    assert not same_weights(module, trainer.averaged)


def test_every_step_is_that_of_plain_pytorch_to_the_bit():
    settings = TrainSettings(steps=30, learning_rate=0.05, warmup=7, accumulate=2, seed=3)
    module, plain = Regression(), Regression()
    trainer = Trainer(module, settings)
    losses = curve(trainer, module.loss)

    optimizer = torch.optim.AdamW(plain.parameters(), betas=(0.9, 0.99), weight_decay=1e-2)
    generator = torch.Generator().manual_seed(3)
    averaged = copy.deepcopy(plain)
    expected = []
    for step in range(30):
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / 30))
        optimizer.param_groups[0]["lr"] = 0.05 * min(1.0, (step + 1) / 7) * cosine
        optimizer.zero_grad()
        halves = [plain.loss(generator) / 2 for _ in range(2)]
        for half in halves:
            half.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, weight in zip(averaged.parameters(), plain.parameters(), strict=True):
                average.lerp_(weight, 1 - decay)
        expected.append(halves[0].item() + halves[1].item())
    assert losses == expected
    assert same_weights(module, plain)
    assert same_weights(trainer.averaged, averaged)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    def trained(seed):
        module = Regression()
        Trainer(module, replace(SHORT, seed=seed)).run(module.loss)
        return module.line.weight.item()

    assert trained(1) == trained(1)
    assert trained(1) != trained(2)


def test_accumulated_steps_equal_one_step_over_the_whole_batch():
    x = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))

    def trained(parts):
        layer = Regression().line
        batches = iter(list(x.chunk(parts)) * 5)
        settings = TrainSettings(steps=5, learning_rate=0.1, accumulate=parts)
        Trainer(layer, settings).run(lambda _: (layer(next(batches)) - 1).square().mean())
        return layer.weight

    assert torch.allclose(trained(1), trained(4), atol=1e-5)


def test_the_learning_rate_rises_then_falls_to_zero():
    settings = TrainSettings(steps=1000, learning_rate=1.0, warmup=100)
    assert settings.rate(0) == pytest.approx(0.01, rel=1e-3)
    assert settings.rate(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.099)))
    assert settings.rate(500) == pytest.approx(0.5)
    assert settings.rate(999) < 1e-4


def test_a_constant_rate_rises_and_stays():
    settings = TrainSettings(steps=1000, learning_rate=0.5, warmup=4, schedule="constant")
    assert [settings.rate(step) for step in (0, 1, 3, 999)] == [0.125, 0.25, 0.5, 0.5]


def test_without_an_average_the_network_itself_is_what_one_ships():
    module = Regression()
    trainer = Trainer(module, replace(SHORT, ema_decay=0.0))
    trainer.run(module.loss)
    assert trainer.averaged is module


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_mixed_precision_layers_compute_in_half_and_weights_stay_whole(dtype):
    module, seen = Regression(), set()
    whole = Regression()
    module.line.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    Trainer(module, replace(SETTINGS, autocast=dtype)).run(module.loss)
    Trainer(whole, SETTINGS).run(whole.loss)
    assert seen == {dtype}
    assert module.line.weight.dtype == torch.float32
    assert not same_weights(module, whole)
    assert module.line.weight.item() == pytest.approx(3, abs=0.05)


def test_a_step_whose_float16_gradients_overflow_is_left_out_and_training_goes_on():
    module = Regression()
    trainer = Trainer(module, replace(SHORT, autocast=torch.float16))
    before, weights = copy.deepcopy(module), []
    trainer.scaler.scale(torch.ones(()))  # it is made at first use
    scale = trainer.scaler.get_scale()

    def loss(generator):
        weights.append(copy.deepcopy(module))
        return module.loss(generator) * (1e32 if trainer.step == 0 else 1.0)

    trainer.run(loss)
    assert same_weights(weights[1], before)
    assert not same_weights(module, before)
    assert trainer.scaler.get_scale() < scale


def test_a_callback_stops_the_training_and_the_next_call_goes_on():
    module, straight = Regression(dropout=0.5), Regression(dropout=0.5)
    torch.manual_seed(5)
    whole = curve(Trainer(straight, SHORT), straight.loss)

    torch.manual_seed(5)
    trainer = Trainer(module, SHORT)
    first = curve(trainer, module.loss, lambda step, _: step == 5)
    assert trainer.step == len(first) == 5
    assert not module.training
    assert first + curve(trainer, module.loss) == whole
    assert same_weights(module, straight)


@pytest.mark.parametrize("where", ["objective", "callback"])
def test_an_error_leaves_the_training_where_it_can_go_on(where):
    module, straight = Regression(), Regression()
    whole = curve(Trainer(straight, SHORT), straight.loss)
    trainer, losses, broken = Trainer(module, SHORT), [], []

    def fail_once(here):
        if here == where and trainer.step == 5 and not broken:
            broken.append(here)
            raise KeyError("no such picture")

    def loss(generator):
        value = module.loss(generator)
        fail_once("objective")
        return value

    def note(_, value):
        losses.append(value)
        fail_once("callback")

    with pytest.raises(KeyError):
        trainer.run(loss, note)
    assert trainer.step == 5
    trainer.run(loss, note)
    assert losses == whole
    assert same_weights(module, straight)


@pytest.fixture
def in_the_foreground():
    """Ctrl-C as a shell in front of it has it; one in the background may ignore it."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("in_the_foreground")
def test_ctrl_c_lets_the_step_come_to_its_end():
    module, straight = Regression(), Regression()
    Trainer(straight, SHORT).run(straight.loss)
    trainer, usual = Trainer(module, SHORT), signal.getsignal(signal.SIGINT)

    def loss(generator):
        value = module.loss(generator)
        if trainer.step == 4:
            signal.raise_signal(signal.SIGINT)
        return value

    with pytest.raises(KeyboardInterrupt):
        trainer.run(loss)
    assert trainer.step == 5
    assert signal.getsignal(signal.SIGINT) is usual
    trainer.run(module.loss)
    assert same_weights(module, straight)


@pytest.mark.usefixtures("in_the_foreground")
def test_ctrl_c_pressed_again_stops_at_once():
    module = Regression()
    trainer = Trainer(module, SHORT)

    def loss(generator):
        value = module.loss(generator)
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        return value

    with pytest.raises(KeyboardInterrupt):
        trainer.run(loss)
    assert trainer.step == 0


def test_ctrl_c_stays_ignored_in_the_background(in_the_foreground):
    module = Regression()
    trainer = Trainer(module, SHORT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def loss(generator):
        signal.raise_signal(signal.SIGINT)
        return module.loss(generator)

    trainer.run(loss)
    assert trainer.step == SHORT.steps


def test_a_thread_of_the_host_can_train_in_inference_mode():
    module, done = Regression(), []

    def work():
        with torch.inference_mode():
            done.append(Trainer(module, SHORT).run(module.loss))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_a_loss_that_is_no_number_stops_the_training_with_advice():
    layer = nn.Linear(1, 1)
    trainer, before = Trainer(layer, TrainSettings(steps=3)), copy.deepcopy(layer)
    with pytest.raises(RuntimeError, match=r"loss is inf at step 1; lower the learning rate"):
        trainer.run(lambda _: layer(torch.full((1, 1), math.inf)).abs().sum())
    assert same_weights(layer, before)


def test_gradients_that_are_no_numbers_reach_no_weight():
    layer = nn.Linear(1, 1)
    trainer, before = Trainer(layer, TrainSettings(steps=3)), copy.deepcopy(layer)
    with pytest.raises(RuntimeError, match=r"gradients are (nan|inf) at step 1"):
        trainer.run(lambda _: (layer.weight * 0).sqrt().sum() + layer.bias.sum())
    assert same_weights(layer, before)


def test_an_exploding_loss_stops_the_training():
    module = Regression()
    trainer = Trainer(module, SETTINGS)

    def loss(generator):
        return module.loss(generator) + (0.0 if trainer.step < 50 else 1e4)

    with pytest.raises(RuntimeError, match="over 10 times the usual, at step "):
        trainer.run(loss)
    assert trainer.step == 50 + PATIENCE - 1


def seen_by(watch, losses):
    for loss in losses:
        watch.see(loss)
    return watch


def test_single_outliers_and_slow_rises_are_no_explosion():
    assert not seen_by(Watch(), [1.0] * ENOUGH + ([50.0] * (PATIENCE - 1) + [1.0]) * 3).has_exploded
    assert not seen_by(Watch(), [1.02**step for step in range(400)]).has_exploded
    # However small the loss has become, it has not exploded below where it began.
    assert not seen_by(Watch(), [1.0] * ENOUGH + [1e-6] * 100 + [0.9] * 100).has_exploded
    assert seen_by(Watch(), [1.0] * ENOUGH + [1e-6] * 100 + [1.1] * PATIENCE).has_exploded
    assert seen_by(Watch(), [2.0**step for step in range(60)]).has_exploded


def test_validation_gets_the_averaged_network_and_draws_no_number_of_the_training():
    module, straight = Regression(dropout=0.5), Regression(dropout=0.5)
    torch.manual_seed(5)
    whole = curve(Trainer(straight, SHORT), straight.loss)
    torch.manual_seed(5)
    trainer, seen, losses = Trainer(module, SHORT), [], []

    def validate(step, averaged):
        torch.randn(3)
        seen.append((step, averaged is trainer.averaged, averaged.training))
        assert not torch.is_grad_enabled()
        return {"score": 0.5}

    trainer.run(module.loss, lambda _, loss: losses.append(loss), validate, validate_every=5)
    assert seen == [(step, True, False) for step in (0, 5, 10, 12)]
    assert losses == whole


def test_a_network_that_is_its_own_average_goes_on_training_after_validation():
    module, modes = Regression(dropout=0.5), []
    trainer = Trainer(module, replace(SHORT, ema_decay=0.0))

    def loss(generator):
        modes.append(module.training)
        return module.loss(generator)

    trainer.run(loss, validate=lambda *_: modes.append(module.training) or {}, validate_every=6)
    assert modes == [False] + ([True] * 6 + [False]) * 2


def test_parameters_without_a_gradient_are_passed_over():
    module, other = Regression(), nn.Linear(2, 2)
    before = copy.deepcopy(other)
    Trainer(nn.ModuleList([module, other]), SHORT).run(module.loss)
    assert same_weights(other, before)


def test_a_network_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="Nothing to train"):
        Trainer(nn.Linear(1, 1).requires_grad_(False), SETTINGS)


def test_weights_in_half_precision_are_refused_by_name():
    module = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1).half()})
    with pytest.raises(ValueError, match=r"b\.weight is float16.*train a float32 copy"):
        Trainer(module, SETTINGS)
    module["b"].requires_grad_(False)
    Trainer(module, SETTINGS)


def test_weights_of_inference_mode_are_refused_by_name():
    with torch.inference_mode():
        layer = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="weight was made in inference mode"):
        Trainer(layer, SETTINGS)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"max_grad_norm": 0}, "max_grad_norm is 0"),
        ({"ema_decay": 1.0}, r"ema_decay is 1\.0, expected from 0 to below 1"),
        ({"schedule": "linear"}, "schedule is linear, expected cosine or constant"),
        ({"optimizer": "sgd"}, "optimizer is sgd, expected adamw or adamw8bit"),
        ({"autocast": torch.float32}, r"autocast is torch\.float32, expected None or a half"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(SETTINGS, **wrong)


def test_adamw_of_8_bits_is_refused_in_words_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"adamw8bit needs the package bitsandbytes.*or choose"):
        Trainer(Regression(), replace(SETTINGS, optimizer="adamw8bit"))


def test_adamw_of_8_bits_is_that_of_its_package(monkeypatch):
    class Stand(torch.optim.AdamW):
        """In place of a package that needs CUDA."""

    package = types.SimpleNamespace(optim=types.SimpleNamespace(AdamW8bit=Stand))
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    trainer = Trainer(Regression(), replace(SETTINGS, optimizer="adamw8bit", weight_decay=0.25))
    assert isinstance(trainer.optimizer, Stand)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.25
