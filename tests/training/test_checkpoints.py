"""Checkpoints of a training: exact, whole, few, and what happens when something breaks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from controlnet_pp.cnpp_core.training import checkpoints as checkpoints_module
from controlnet_pp.cnpp_core.training.checkpoints import Checkpoints
from controlnet_pp.cnpp_core.training.trainer import Trainer
from controlnet_pp.cnpp_core.training.watch import PATIENCE
from controlnet_pp.tests.training.regression import (
    SETTINGS,
    Regression,
    Remembering,
    curve,
    same_weights,
    trainer_of,
)
from torch import nn

ROOT = Path(__file__).resolve().parent.parent.parent
SHORT = replace(SETTINGS, steps=35)


def straight(settings=SHORT) -> tuple[Trainer, list[float]]:
    """A training that nothing interrupts."""
    module = Regression(dropout=0.5)
    torch.manual_seed(5)
    trainer = Trainer(module, settings)
    return trainer, curve(trainer, module.loss)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(tmp_path, dtype):
    settings = replace(SHORT, autocast=dtype, accumulate=2)
    whole, losses = straight(settings)
    module = Regression(dropout=0.5)
    torch.manual_seed(5)
    first = trainer_of(module, settings, tmp_path)
    begun = curve(first, module.loss, lambda step, _: step == 17)

    torch.manual_seed(99)
    other = Regression(dropout=0.5)
    second = trainer_of(other, settings, tmp_path)
    assert second.resume()
    assert second.step == 17
    assert begun + curve(second, other.loss) == losses
    assert same_weights(other, whole.module)
    assert same_weights(second.averaged, whole.averaged)
    assert second.scaler.state_dict() == whole.scaler.state_dict()
    assert second.watch.losses == whole.watch.losses


@pytest.mark.parametrize("step", [17, 10])
def test_what_an_objective_remembers_is_resumed_from_every_checkpoint(tmp_path, step):
    """That of the stop, and one that was written as the training went on."""
    whole, first, other = Regression(), Regression(), Regression()
    losses = curve(Trainer(whole, SHORT), Remembering(whole))
    trainer = trainer_of(first, SHORT, tmp_path)
    trainer.run(Remembering(first), lambda step, _: step == 17)
    if step < 17:
        trainer.checkpoints.path(17).unlink()
    second = trainer_of(other, SHORT, tmp_path)
    assert second.resume()
    assert second.step == step
    assert curve(second, Remembering(other)) == losses[step:]


@pytest.mark.parametrize("wrong", ["error", "nan"])
def test_after_a_failed_step_the_objective_is_back_as_well(tmp_path, wrong):
    whole, module = Regression(), Regression()
    losses = curve(Trainer(whole, SHORT), Remembering(whole))
    trainer = trainer_of(module, SHORT, tmp_path)
    objective, loss = Remembering(module), module.loss

    def fails(generator):
        value = loss(generator)
        if trainer.step == 17:
            del module.loss
            if wrong == "error":
                raise ConnectionError
            return value * float("nan")
        return value

    module.loss = fails
    with pytest.raises((ConnectionError, RuntimeError)):
        trainer.run(objective)
    back = 17 if wrong == "error" else 10
    assert trainer.step == back
    assert curve(trainer, objective) == losses[back:]


def test_what_was_remembered_under_other_settings_is_not_resumed(tmp_path):
    module = Regression()
    trainer_of(module, SHORT, tmp_path).run(Remembering(module), lambda step, _: step == 17)
    other = trainer_of(module, replace(SHORT, learning_rate=0.02), tmp_path)
    other.resume(accept_changes=True)
    objective = Remembering(module, size=3)
    other.run(objective, lambda *_: True)
    assert len(objective.memory) == 3


def test_a_network_as_objective_is_saved_once(tmp_path):
    class Fitted(Regression):
        forward = Regression.loss

    module = Fitted()
    trainer_of(module, SHORT, tmp_path).run(module)
    assert not [name for name in Checkpoints(tmp_path).read(35)[0] if "objective" in name]


def test_layers_keep_their_memory_layout_over_a_resume(tmp_path):
    def network():
        torch.manual_seed(0)
        return nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)

    def loss_of(conv):
        return lambda generator: conv(torch.randn(2, 4, 5, 5, generator=generator)).square().mean()

    conv = network()
    Trainer(conv, SHORT).run(loss_of(conv))
    first = network()
    trainer_of(first, SHORT, tmp_path).run(loss_of(first), lambda step, _: step == 17)
    second = network()
    trainer = trainer_of(second, SHORT, tmp_path)
    trainer.resume()
    moment = trainer.optimizer.state[second.weight]["exp_avg"]
    assert moment.stride() == second.weight.stride() != moment.contiguous().stride()
    trainer.run(loss_of(second))
    assert same_weights(conv, second)


def test_checkpoints_are_apart_as_asked_and_the_newest_stay(tmp_path):
    module = Regression()
    trainer = trainer_of(module, SHORT, tmp_path)
    kept = []
    trainer.run(module.loss, lambda *_: kept.append(trainer.checkpoints.steps()))
    # The one of a step is written when its weights have shown a finite loss, in the next one.
    assert kept[9:12] == [[], [10], [10]]
    assert kept[30] == [20, 30]
    assert trainer.checkpoints.steps() == [30, 35]
    assert not list(tmp_path.glob("*.part"))


def test_numbers_are_json_and_tensors_safetensors(tmp_path):
    module = Regression()
    trainer_of(module, SHORT, tmp_path).run(module.loss)
    tensors, rest = Checkpoints(tmp_path).read(35)
    assert set(tensors) == {
        *(
            f"{which}.line.{name}"
            for which in ("module", "averaged")
            for name in ("weight", "bias")
        ),
        *(f"optimizer.{i}.{name}" for i in (0, 1) for name in ("step", "exp_avg", "exp_avg_sq")),
        *("process.0.random.generator", "process.0.random.cpu"),
    }
    assert torch.equal(tensors["module.line.weight"], module.line.weight)
    assert rest["settings"]["learning_rate"] == SHORT.learning_rate
    assert rest["step"] == 35


def test_plain_numbers_of_an_optimiser_come_back_too(tmp_path):
    class Counting(torch.optim.AdamW):
        """Remembers its steps as a plain number, as others do."""

        def step(self, closure=None):
            super().step(closure)
            for state in self.state.values():
                state["count"] = state.get("count", 0) + 1

    def counting(module):
        trainer = trainer_of(module, SHORT, tmp_path)
        trainer.optimizer = Counting(trainer.trained, weight_decay=0.0)
        return trainer

    module = Regression()
    counting(module).run(module.loss)
    again = counting(Regression())
    again.resume()
    assert [state["count"] for state in again.optimizer.state.values()] == [35, 35]


def test_settings_that_differ_are_named_and_can_be_accepted(tmp_path, caplog):
    module = Regression()
    trainer_of(module, SHORT, tmp_path, about={"kind": "canny"}).run(
        module.loss, lambda step, _: step == 15
    )
    changed = replace(SHORT, learning_rate=0.02, autocast=torch.bfloat16)
    other = trainer_of(Regression(), changed, tmp_path, about={"kind": "depth"})
    with pytest.raises(ValueError, match="is of another training") as raised:
        other.resume()
    for said in (
        "learning_rate was 0.1 and is 0.02",
        'autocast was null and is "bfloat16"',
        'about.kind was "canny" and is "depth"',
    ):
        assert said in str(raised.value)
    assert "weight_decay" not in str(raised.value)
    assert other.step == 0
    assert other.resume(accept_changes=True)
    assert other.step == 15
    assert "although learning_rate was 0.1 and is 0.02" in caplog.text


def test_an_average_can_begin_later(tmp_path):
    module = Regression()
    trainer_of(module, replace(SHORT, ema_decay=0.0), tmp_path).run(module.loss)
    later = trainer_of(Regression(), SHORT, tmp_path)
    later.resume(accept_changes=True)
    assert same_weights(later.averaged, module)


def test_the_checkpoint_of_another_network_is_refused(tmp_path):
    module = Regression()
    trainer_of(module, SHORT, tmp_path).run(module.loss)
    wide = Regression()
    wide.line = nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"of another network.*size mismatch.*line\.weight"):
        trainer_of(wide, SHORT, tmp_path).resume()


def test_a_folder_without_checkpoints_resumes_nothing(tmp_path):
    assert not trainer_of(Regression(), SHORT, tmp_path / "not there").resume()
    assert not trainer_of(Regression(), SHORT).resume()


def test_a_folder_with_another_training_is_refused_before_it_is_touched(tmp_path):
    module = Regression()
    trainer_of(module, SHORT, tmp_path).run(module.loss)
    with pytest.raises(ValueError, match="holds a training at step 35, this one is at 0: resume"):
        trainer_of(Regression(), SHORT, tmp_path).run(module.loss)
    assert Checkpoints(tmp_path).steps() == [30, 35]


@pytest.mark.parametrize("kept", [0, 1, 400])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, kept):
    module = Regression()
    trainer_of(module, SHORT, tmp_path).run(module.loss)
    path = tmp_path / "step-00000035.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    trainer = trainer_of(Regression(), SHORT, tmp_path)
    with pytest.raises(ValueError, match=r"step-00000035\.safetensors is no checkpoint.*delete it"):
        trainer.resume()
    path.unlink()
    trainer.resume()
    assert trainer.step == 30


def test_safetensors_of_somebody_else_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "step-00000035.safetensors")
    with pytest.raises(ValueError, match="its format is None, expected"):
        trainer_of(Regression(), SHORT, tmp_path).resume()


@pytest.mark.parametrize("wrong", [{"every": 0}, {"keep": 0}])
def test_intervals_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="expected at least 1 of both"):
        Checkpoints(tmp_path, **wrong)


@pytest.mark.parametrize("moment", ["save_file", "_to_disk"])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(tmp_path, monkeypatch, moment):
    module = Regression()
    trainer = trainer_of(module, SHORT, tmp_path)

    def full(target, *rest, **named):
        path = rest[0] if moment == "save_file" else target
        Path(path).write_bytes(b"half of i")
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(step, _):
        if step == 25:
            monkeypatch.setattr(checkpoints_module, moment, full)

    with pytest.raises(OSError, match=r"step 30 can't be written.*No space left.*step 20 stays"):
        trainer.run(module.loss, fill)
    assert trainer.checkpoints.steps() == [10, 20]
    assert not list(tmp_path.glob("*.part"))
    assert trainer.step == 30

    monkeypatch.undo()
    trainer.run(module.loss)  # the one in memory can go on
    whole = Regression()
    Trainer(whole, SHORT).run(whole.loss)
    assert same_weights(module, whole)
    assert trainer.checkpoints.steps() == [20, 35]


def test_an_explosion_goes_back_to_a_checkpoint_from_before(tmp_path):
    module = Regression()
    trainer = trainer_of(module, replace(SETTINGS, steps=100), tmp_path)
    good = {}

    def loss(generator):
        if trainer.step == 40:
            good.update({k: v.clone() for k, v in module.state_dict().items()})
            with torch.no_grad():
                module.line.weight += 1e5
        return module.loss(generator)

    with pytest.raises(RuntimeError, match=r"at step 60.*back at step 30, its last checkpoint"):
        trainer.run(loss)
    assert PATIENCE == 20
    assert trainer.step == 30
    assert trainer.checkpoints.steps() == [20, 30]
    assert abs(module.line.weight.item()) < 10
    trainer.run(module.loss)
    assert module.line.weight.item() == pytest.approx(3, abs=0.2)


def test_after_a_loss_that_is_no_number_the_last_good_state_is_back(tmp_path):
    module = Regression()
    trainer = trainer_of(module, SHORT, tmp_path)

    def loss(generator):
        return module.loss(generator) * (float("nan") if trainer.step == 24 else 1.0)

    with pytest.raises(RuntimeError, match=r"loss is nan at step 25; .*back at step 20"):
        trainer.run(loss)
    assert trainer.checkpoints.steps() == [10, 20]
    assert all(parameter.isfinite().all() for parameter in module.parameters())


KILLED = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import cli
    from dataclasses import replace
    from pathlib import Path
    cli.part("cnpp_core")
    regression = cli.part("tests.training.regression")
    module = regression.Regression()
    settings = replace(regression.SETTINGS, steps=100_000)
    trainer = regression.trainer_of(module, settings, Path(sys.argv[2]))
    trainer.run(module.loss, lambda step, _: print(step, flush=True))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
def test_a_training_that_is_killed_loses_the_steps_since_its_checkpoint_at_most(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(ROOT), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.strip() == "33":
                process.send_signal(signal.SIGKILL)
                break
        reached = max([33, *map(int, process.stdout.read().split())])
    assert process.returncode == -signal.SIGKILL

    settings = replace(SETTINGS, steps=100_000)
    module, unbroken = Regression(), Regression()
    trainer = trainer_of(module, settings, tmp_path)
    assert trainer.resume()
    assert reached - trainer.step <= 11
    end = trainer.step + 5
    trainer.run(module.loss, lambda step, _: step == end)
    Trainer(unbroken, settings).run(unbroken.loss, lambda step, _: step == end)
    assert same_weights(module, unbroken)
