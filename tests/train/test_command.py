"""The commands from their settings to the files that they write, on the demo model."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from controlnet_pp.annotators.canny import canny_magnitude
from controlnet_pp.cnpp_core.checkpoint import load_controlnet_file, read_tensors
from controlnet_pp.cnpp_core.training.modes import Mode
from controlnet_pp.cnpp_core.training.processes import OneProcess
from controlnet_pp.cnpp_core.training.session import Session
from controlnet_pp.demo.model import WEIGHTS
from controlnet_pp.tests.train.folders import circles, pictures_with_captions, write_folder
from controlnet_pp.train import run as run_module
from controlnet_pp.train.command import main
from controlnet_pp.train.job import prepare
from controlnet_pp.train.reading import read_options
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = (
    *("--resolution=64", "--batch=1", "--steps=3", "--warmup=1", "--learning-rate=1e-3"),
    *("--held-out=1", "--validate-every=2", "--validation-steps=2", "--device=cpu"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return circles(tmp_path_factory.mktemp("circles") / "set")


def train(data, out, *more, command="train"):
    return main(command, [f"--data={data}", f"--out={out}", *SMALL, *more])


def course(out):
    with (out / "training.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(out):
    return load_controlnet_file(out / "controlnet.safetensors").state_dict


def same(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_training_writes_network_course_pictures_and_how_it_was_made(data, tmp_path, caplog):
    caplog.set_level("INFO")
    assert train(data, tmp_path, "--mode=SD locked", "--middle-steps=1") == 0
    loaded = load_controlnet_file(tmp_path / "controlnet.safetensors")
    assert loaded.dtype == torch.float16
    about = loaded.training
    assert (about.base, about.condition, about.steps) == ("demo", "canny", 3)
    assert about.settings["middle_steps"] == 1
    assert about.settings["data"] == "set"
    assert [row["step"] for row in course(tmp_path)] == ["0", "1", "2", "3"]
    assert [bool(row["score"]) for row in course(tmp_path)] == [True, False, True, True]
    sheets = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert sheets == [f"step-{step:08}.png" for step in (0, 2, 3)]
    assert Image.open(tmp_path / "validation" / sheets[0]).width > 3 * 64
    assert "trains 3,154,448 parameters beside" in caplog.text
    assert caplog.text.index("at the peak") < caplog.text.index("Edge F1 (within 1 pixel)")
    assert "at first, now" in caplog.text


def test_a_plan_is_printed_and_nothing_written(data, tmp_path, caplog):
    caplog.set_level("INFO")
    assert train(data, tmp_path / "out", "--plan") == 0
    assert "3 steps of 1 pictures, 0.6 times through the pictures" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.fixture
def in_the_foreground():
    """Ctrl-C as a shell in front of it has it; one in the background may ignore it."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("in_the_foreground")
def test_ctrl_c_keeps_the_step_and_resume_ends_as_without_it(data, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(data, whole, "--stored=fp32")
    run = Session.run

    def interrupted(session, objective, on_step, *rest):
        def pressed(step, loss):
            if step == 1:
                signal.raise_signal(signal.SIGINT)
            return on_step(step, loss)

        return run(session, objective, pressed, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(data, parts, "--stored=fp32")
    assert "step 1 is kept" in caplog.text
    assert "with --resume goes on" in caplog.text
    assert not (parts / "controlnet.safetensors").exists()
    with pytest.raises(ValueError, match="holds a training at step 1: give --resume"):
        train(data, parts)
    with pytest.raises(ValueError, match=r"about\.batch was 1 and is 2"):
        train(data, parts, "--resume", "--batch=2")
    assert train(data, parts, "--stored=fp32", "--resume") == 0
    assert same(weights(parts), weights(whole))
    ours, theirs = (
        [(r["step"], r["loss"], r["score"]) for r in course(out)] for out in (parts, whole)
    )
    assert ours == theirs


def test_a_reward_begins_with_a_controlnet_and_says_so(data, tmp_path):
    begin = WEIGHTS / "controlnet_canny.safetensors"
    for recipe in ("published", "on trajectories"):
        out = tmp_path / recipe
        more = ("--trajectory-steps=2", "--pool=1", f"--recipe={recipe}", f"--begin={begin}")
        assert train(data, out, *more, command="reward") == 0
        loaded = load_controlnet_file(out / "controlnet.safetensors")
        assert loaded.training.settings["recipe"] == recipe
        assert loaded.training.settings["begin"] == "controlnet_canny.safetensors"
        assert all(row["reward"] for row in course(out) if row["step"] != "0")
        before = load_controlnet_file(begin).state_dict
        change = max(
            float((loaded.state_dict[k].float() - before[k].float()).abs().max()) for k in before
        )
        assert 0 < change < 0.1


def test_a_reward_is_found_in_full_precision(data, tmp_path):
    """Half of it would move edges across their thresholds."""
    flags = [f"--data={data}", *SMALL, f"--begin={WEIGHTS / 'controlnet_canny.safetensors'}"]
    options = read_options("reward", [*flags, "--precision=bf16"], "")
    job = prepare("reward", options, OneProcess("cpu"), None)
    annotate = job.objective.terms["reward"][1].model.annotate
    pictures = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = annotate(pictures)
    assert torch.equal(found, canny_magnitude(pictures))


def test_the_middle_comes_first_where_it_is_asked_for(data):
    flags = [f"--data={data}", *SMALL, "--middle-steps=2", "--mode=SD decoder unlocked"]
    job = prepare("train", read_options("train", flags, ""), OneProcess("cpu"), None)
    assert job.session.modes == {0: Mode.MIDDLE_ONLY, 2: Mode.SD_DECODER_UNLOCKED}


def test_only_the_first_process_writes(data, tmp_path, monkeypatch):
    class Second(OneProcess):
        index = 1

    monkeypatch.setattr(run_module, "_processes", Second)
    assert train(data, tmp_path) == 0
    assert not list(tmp_path.rglob("*"))


def test_an_unlocked_decoder_is_written_as_a_model(data, tmp_path):
    assert train(data, tmp_path, "--mode=SD decoder unlocked", "--precision=bf16") == 0
    unet = read_tensors(tmp_path / "unet.safetensors")
    begun = read_tensors(WEIGHTS / "unet.safetensors")
    changed = {
        name.split(".")[0]
        for name, tensor in begun.items()
        if not torch.equal(tensor, unet[f"model.diffusion_model.{name}"])
    }
    assert changed == {"output_blocks", "out"}


def test_the_file_may_be_in_diffusers_layout_and_full_precision(data, tmp_path):
    train(data, tmp_path, "--layout=diffusers", "--stored=fp32")
    loaded = load_controlnet_file(tmp_path / "controlnet.safetensors")
    assert (loaded.layout, loaded.dtype) == ("diffusers", torch.float32)


@pytest.mark.parametrize("xl", [False, True])
def test_a_real_model_s_folder_is_trained_with_conditions_found_on_the_fly(xl, tmp_path):
    """Of a few random weights; cached, in half precision, with less memory."""
    folder = pictures_with_captions(tmp_path / "pictures")
    model = write_folder(tmp_path / "model", xl=xl)
    more = (
        *(f"--model={model}", "--method=cv2", "--thresholds=50,150,150,250", "--precision=bf16"),
        *("--recompute", "--encode-first", f"--cache={tmp_path / 'cache'}", "--mirror"),
    )
    assert train(folder, tmp_path / "out", *more) == 0
    about = load_controlnet_file(tmp_path / "out" / "controlnet.safetensors").training
    assert about.base == "model"
    cached = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(cached) >= 5
    before = [file.stat().st_mtime_ns for file in cached]
    begin = tmp_path / "out" / "controlnet.safetensors"
    reward = (f"--begin={begin}", "--trajectory-steps=2", "--most-t=999")
    assert train(folder, tmp_path / "pp", *more, *reward, command="reward") == 0
    assert [file.stat().st_mtime_ns for file in cached] == before


def test_a_condition_that_nobody_knows_is_trained_without_a_score(data, tmp_path):
    assert train(data, tmp_path, "--condition=other") == 0
    assert "score" not in course(tmp_path)[0]
    assert len(list((tmp_path / "validation").iterdir())) == 3


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("reward", (), "give its file as begin"),
        ("reward", ("--begin=none.safetensors",), "none.safetensors"),
        ("reward", ("--begin=x", "--condition=other"), "a kind of condition that is known"),
        ("train", ("--middle-steps=3",), "leaves none for the rest"),
        ("train", ("--unet=x.safetensors",), "leave out unet"),
        ("train", ("--model=nowhere",), "no model_index.json"),
        ("train", ("--learning-rate=0",), "learning_rate is 0"),
        ("train", ("--resolution=65",), "multiple of 64"),
        ("train", ("--device=gpu",), "--device gpu"),
        ("train", ("--optimizer=adamw8bit",), "bitsandbytes"),
    ],
)
def test_what_can_t_be_is_refused_before_the_first_step(command, more, said, data, tmp_path):
    with pytest.raises((ValueError, OSError), match=said):
        train(data, tmp_path, *more, command=command)
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_refused_before_the_first_step(data, tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000_000))
    with pytest.raises(ValueError, match=r"has room for 0\.01 GB, the training writes 0\.1"):
        train(data, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_exploding_loss_ends_the_command_in_words(data, tmp_path):
    with pytest.raises(
        ValueError, match=r"The (loss|gradients) (is|are) .* lower the learning rate"
    ):
        train(data, tmp_path, "--learning-rate=1e30", "--max-grad-norm=1e30", "--no-score")


def launched(tmp_path, data, count, *more):
    """As torchrun starts it; the output of all processes."""
    launch = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}")
    command = [sys.executable, *launch, str(ROOT / "cli.py"), "train", f"--data={data}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, f"--out={tmp_path}", *SMALL, *more],
        capture_output=True,
        text=True,
        timeout=600,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_two_processes_train_one_network_and_one_of_them_talks(data, tmp_path):
    said = launched(tmp_path, data, 2)
    assert said.count("3 steps of 2 pictures") == 1
    assert said.count("written:") == 1
    assert [row["step"] for row in course(tmp_path)] == ["0", "1", "2", "3"]


def test_a_killed_training_loses_at_most_the_steps_since_its_checkpoint(data, tmp_path):
    """As a power cut ends it: no chance to write anything."""
    command = [sys.executable, str(ROOT / "cli.py"), "train", f"--data={data}", *SMALL]
    more = ("--checkpoint-every=1", "--steps=500", "--held-out=0")
    process = subprocess.Popen([*command, f"--out={tmp_path}", *more], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while not list(tmp_path.glob("step-*2.safetensors")) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    (*_, last) = sorted(tmp_path.glob("step-*.safetensors"))
    step = int(last.stem.removeprefix("step-"))
    assert step >= 2
    more = ("--checkpoint-every=1", "--held-out=0", f"--steps={step + 1}", "--accept-changes")
    assert train(data, tmp_path, "--resume", *more) == 0
    assert [int(row["step"]) for row in course(tmp_path)] == list(range(1, step + 2))
