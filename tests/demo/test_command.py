"""The demonstration's measuring and drawing, with samplers whose result is known."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from controlnet_pp.demo import command as run
from controlnet_pp.demo.judge import Judge
from controlnet_pp.demo.model import load_demo
from controlnet_pp.demo.world import HELD_OUT_SEED, load_batch

COUNT = 5
PERFECT = SimpleNamespace(
    autoencoder=SimpleNamespace(encode=lambda images: images, decode=lambda latents: latents)
)


@pytest.fixture
def follows(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A sampler that draws the held-out picture with a hint, and another one's without."""
    batch = load_batch(HELD_OUT_SEED, range(COUNT))
    calls: list[dict] = []

    def generate(demo, captions, *, hints, **options):
        calls.append({"captions": captions, "hints": hints, **options})
        index = [batch.captions.index(caption) for caption in captions]
        shift = 0 if hints is not None else 1
        return batch.images[[(i + shift) % COUNT for i in index]]

    monkeypatch.setattr(run, "generate", generate)
    monkeypatch.setattr(run, "load_demo", lambda folder: PERFECT)
    return calls


def demo(out: Path, *arguments: str) -> tuple[int, dict]:
    code = run.main(["--count", str(COUNT), "--steps", "2", "--out", str(out), *arguments])
    return code, json.loads((out / "demo.json").read_text(encoding="utf-8"))


def test_a_sampler_that_follows_scores_one_and_passes(follows: list[dict], tmp_path: Path) -> None:
    code, report = demo(tmp_path)
    scores = {row["setting"]: row for row in report["settings"]}
    assert code == 0
    assert scores["control"]["canny_f1"] == 1.0
    assert scores["control"]["foreground_iou"] == 1.0
    assert scores["no control"]["canny_f1"] < 0.5
    assert report["gain"] == pytest.approx(1 / scores["no control"]["canny_f1"])


def test_control_that_gains_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, follows: list[dict], tmp_path: Path
) -> None:
    sampler = run.generate
    monkeypatch.setattr(
        run, "generate", lambda *a, **k: sampler(*a, **{**k, "hints": torch.zeros(1)})
    )
    code, report = demo(tmp_path)
    assert report["gain"] == pytest.approx(1.0)
    assert code == 1


def test_settings_differ_in_control_and_guidance_only(follows: list[dict], tmp_path: Path) -> None:
    demo(tmp_path)
    assert [call["shape"] for call in follows] == [setting.shape for setting in run.SETTINGS]
    assert [call["hints"] is None for call in follows] == [True, *[False] * 5]
    guided = [call["guidance"] is not None for call in follows]
    assert guided == [setting.guided for setting in run.SETTINGS]
    assert sum(guided) == 1
    assert len({(tuple(call["captions"]), call["seed"], call["steps"]) for call in follows}) == 1


def test_the_picture_on_the_sheet_is_readable_and_shows_the_input(
    follows: list[dict], tmp_path: Path
) -> None:
    demo(tmp_path)
    sheet = cv2.imdecode(np.fromfile(tmp_path / "demo.png", np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    picture = (
        (load_batch(HELD_OUT_SEED, [run.SHOWN[0]]).images[0] * 255)
        .round()
        .byte()
        .movedim(0, -1)
        .numpy()
    )
    corner = picture[2, 2]
    assert sheet.shape[1] > 7 * 128
    assert (sheet == corner).all(-1).sum() > 128 * 128 / 2


def test_a_picture_of_ones_own_is_shown_but_not_averaged(
    follows: list[dict], tmp_path: Path
) -> None:
    _, without = demo(tmp_path)
    caption = load_batch(HELD_OUT_SEED, [0]).captions[0]
    picture = np.full((90, 200, 3), 255, np.uint8)
    cv2.circle(picture, (100, 45), 30, (0, 0, 255), -1)
    file = tmp_path / "own picture.png"
    file.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    code, report = demo(tmp_path, "--image", str(file), "--prompt", caption)
    assert code == 0
    assert [row["canny_f1"] for row in report["settings"]] == [
        pytest.approx(row["canny_f1"]) for row in without["settings"]
    ]


def test_a_picture_is_cropped_in_the_centre_and_read_as_rgb(tmp_path: Path) -> None:
    picture = np.zeros((64, 192, 3), np.uint8)
    picture[:, 64:128] = (10, 20, 250)  # BGR
    file = tmp_path / "red.png"
    file.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    image = run.read_picture(file)
    assert image.shape == (1, 3, 128, 128)
    assert torch.allclose(image.mean((0, 2, 3)) * 255, torch.tensor([250.0, 20.0, 10.0]))


def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no picture")
    with pytest.raises(ValueError, match=r"notes\.txt is no picture"):
        run.read_picture(file)


def test_a_picture_without_edges_is_refused(follows: list[dict], tmp_path: Path) -> None:
    file = tmp_path / "flat.png"
    file.write_bytes(cv2.imencode(".png", np.full((50, 50, 3), 128, np.uint8))[1].tobytes())
    with pytest.raises(ValueError, match="no edges"):
        demo(tmp_path, "--image", str(file), "--prompt", "red circle on a blue ground")


def test_an_image_needs_a_prompt(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--prompt"):
        run.main(["--image", "picture.png"])


def test_the_shipped_model_follows_conditions_it_has_never_seen() -> None:
    count = 8
    judge = Judge(load_batch(HELD_OUT_SEED, range(100, 100 + count)))
    shipped = load_demo()
    options = Namespace(seed=1, steps=5, cfg=2.0)
    without, control = (
        run.sample(shipped, setting, judge, options).judged for setting in run.SETTINGS[:2]
    )
    assert control.f1.mean() >= 2 * without.f1.mean()
    assert control.f1.mean() > 0.7
    assert control.iou.mean() > 2 * without.iou.mean()
