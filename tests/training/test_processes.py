"""One training in several processes, through accelerate."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from controlnet_pp.cnpp_core.training.processes import Accelerated, OneProcess
from controlnet_pp.cnpp_core.training.trainer import Trainer
from controlnet_pp.tests.training.regression import SETTINGS, Regression, Remembering, curve

ROOT = Path(__file__).resolve().parent.parent.parent
SHORT = replace(SETTINGS, steps=25, accumulate=2)

# What each of two processes does. They begin with different weights, their objectives remember
# tensors of different shapes, and only the second one's callback asks to stop, once.
WORK = """
    import json, sys
    sys.path.insert(0, sys.argv[1])
    import cli
    from dataclasses import replace
    from pathlib import Path
    regression = cli.part("tests.training.regression")
    processes = cli.part("cnpp_core.training.processes").Accelerated("cpu")
    settings = replace(regression.SETTINGS, steps=25, accumulate=2)
    folder = Path(sys.argv[2])

    def objective(module):
        return regression.Remembering(module, size=1 + processes.index)

    def trainer():
        module = regression.Regression()
        if processes.index:
            module.line.weight.data += 5
        return regression.trainer_of(module, settings, folder, processes=processes)

    first = trainer()
    stop = lambda step, _: processes.index == 1 and step == 12
    losses = regression.curve(first, objective(first.module), stop)
    second = trainer()
    resumed = second.resume()
    losses += regression.curve(second, objective(second.module))
    found = {
        "count": processes.count,
        "resumed": resumed,
        "losses": losses,
        "weight": second.module.line.weight.item(),
        "averaged": second.averaged.line.weight.item(),
    }
    (folder / f"process-{processes.index}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> SimpleNamespace:
    """What two processes found, started as torchrun starts them, and their folder."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in "01":
        env = {
            **os.environ,
            **{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"},
        }
        command = [sys.executable, "-c", textwrap.dedent(WORK), str(ROOT), str(folder)]
        started.append(
            subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    try:
        said = [process.communicate(timeout=600)[0].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    found = [json.loads((folder / f"process-{i}.json").read_text()) for i in range(2)]
    return SimpleNamespace(folder=folder, found=found)


@pytest.fixture(scope="module")
def one() -> SimpleNamespace:
    """One process with the batches of both."""
    module = Regression()
    second = OneProcess()
    second.index = 1
    theirs = second.generator(SHORT.seed)
    trainer = Trainer(module, SHORT)
    both = Remembering(module, 1), Remembering(module, 2)
    losses = curve(trainer, lambda ours: (both[0](ours) + both[1](theirs)) / 2)
    return SimpleNamespace(trainer=trainer, losses=losses)


def test_two_processes_are_one_with_the_doubled_batch(two, one):
    for found in two.found:
        assert found["count"] == 2
        assert found["weight"] == pytest.approx(one.trainer.module.line.weight.item(), abs=1e-5)
        assert found["averaged"] == pytest.approx(one.trainer.averaged.line.weight.item(), abs=1e-5)


def test_all_processes_know_the_loss_of_all(two, one):
    assert two.found[0]["losses"] == two.found[1]["losses"]
    assert two.found[0]["losses"] == pytest.approx(one.losses, abs=1e-5)


def test_what_one_process_asks_stops_them_all_and_they_resume_together(two):
    assert [found["resumed"] for found in two.found] == [True, True]
    assert len(two.found[0]["losses"]) == 25
    assert (two.folder / "step-00000025.safetensors").is_file()


def test_only_the_first_process_writes_rows(two):
    rows = (two.folder / "training.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 25


def test_tensorboard_gets_the_same_numbers(two):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(two.folder / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx(two.found[0]["losses"], rel=1e-6)


def test_every_process_draws_its_own_part():
    def drawn(index):
        process = OneProcess()
        process.index = index
        return torch.randn(4, generator=process.generator(7)).tolist()

    assert len({tuple(drawn(index)) for index in range(3)}) == 3
    assert drawn(0) == torch.randn(4, generator=torch.Generator().manual_seed(7)).tolist()


def test_without_accelerate_one_process_trains_and_several_are_refused_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    module = Regression()
    assert Trainer(module, SHORT, processes=OneProcess("cpu")).run(module.loss)
    with pytest.raises(ValueError, match=r"needs the package accelerate.*pip install accelerate"):
        Accelerated()


def stand_in(monkeypatch, distributed_type="NO", mixed_precision="no"):
    """An accelerate that is set up so."""

    def accelerator(cpu):
        return SimpleNamespace(
            process_index=0,
            num_processes=1,
            device=torch.device("cpu"),
            distributed_type=SimpleNamespace(value=distributed_type),
            mixed_precision=mixed_precision,
        )

    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(Accelerator=accelerator))
    return Accelerated("cpu")


def test_ways_that_split_the_network_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="set up for FSDP, which splits the network"):
        stand_in(monkeypatch, distributed_type="FSDP")
    stand_in(monkeypatch, distributed_type="MULTI_GPU")


def test_another_precision_than_that_of_the_settings_is_refused(monkeypatch):
    processes = stand_in(monkeypatch, mixed_precision="fp16")
    with pytest.raises(ValueError, match="mixed precision fp16, the settings of the training say"):
        processes.autocast(torch.bfloat16)
    with processes.autocast(torch.float16):
        assert torch.is_autocast_enabled("cpu")
