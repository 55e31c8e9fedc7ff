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
from controlnet_pp.demo.conditions import EDGES
from controlnet_pp.demo.judge import Judge
from controlnet_pp.demo.model import PLUSPLUS, TRAININGS, load_demo
from controlnet_pp.demo.world import HELD_OUT_SEED, load_batch
from PIL import Image

COUNT = 5
PERFECT = SimpleNamespace(encode=lambda images: images, decode=lambda latents: latents)


@pytest.fixture
def follows(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A sampler that draws the held-out picture with a hint, and another one's without."""
    batch = load_batch(HELD_OUT_SEED, range(COUNT))
    calls: list[dict] = []
    networks = {name: SimpleNamespace(autoencoder=PERFECT, name=name) for name in TRAININGS}

    def generate(demo, captions, *, hints, **options):
        calls.append({"training": demo.name, "captions": captions, "hints": hints, **options})
        index = [batch.captions.index(caption) for caption in captions]
        shift = 0 if hints is not None else 1
        return batch.images[[(i + shift) % COUNT for i in index]]

    monkeypatch.setattr(run, "generate", generate)
    monkeypatch.setattr(run, "load_demo", lambda folder, training: networks[training])
    return calls


def demo(out: Path, *arguments: str) -> tuple[int, dict]:
    code = run.main(["--count", str(COUNT), "--steps", "2", "--out", str(out), *arguments])
    return code, json.loads((out / "demo.json").read_text(encoding="utf-8"))


def test_a_sampler_that_follows_scores_one_and_passes(follows: list[dict], tmp_path: Path) -> None:
    code, report = demo(tmp_path)
    scores = {row["setting"]: row for row in report["settings"]}
    assert code == 0
    assert scores["ControlNet"]["canny_f1"] == 1.0
    assert scores["ControlNet"]["foreground_iou"] == 1.0
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
    guided = [call["steering"] is not None for call in follows]
    assert guided == [setting.guided for setting in run.SETTINGS]
    assert sum(guided) == 1
    trainings = [call["training"] for call in follows]
    assert trainings == [setting.training for setting in run.SETTINGS]
    assert set(trainings) == set(TRAININGS)
    assert len({(tuple(call["captions"]), call["seed"], call["steps"]) for call in follows}) == 1


def test_the_file_shows_the_pictures_and_the_edges_that_came_back(
    follows: list[dict], tmp_path: Path
) -> None:
    demo(tmp_path)
    sheet = np.array(Image.open(tmp_path / "demo.png"))
    ground = (load_batch(HELD_OUT_SEED, [run.SHOWN[0]]).images[0, :, 2, 2] * 255).round().int()
    assert sheet.shape[1] > 8 * 128
    # The input and the five settings with control show that scene.
    assert (sheet == ground.numpy()).all(-1).sum() > 6 * 128 * 128 / 2
    for word in ("lost", "invented"):  # without control edges are elsewhere
        colour = np.array(dict(EDGES.legend)[word]) * 255
        alike = np.abs(sheet - colour).max(-1) < 60  # lines were enlarged, so their colours mix
        assert alike.sum() > 160  # the square in the legend has 100


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


def test_a_large_picture_is_averaged_down_not_sampled(tmp_path: Path) -> None:
    stripes = np.zeros((1024, 1024), np.uint8)
    stripes[:, ::2] = 200
    file = tmp_path / "stripes.png"
    Image.fromarray(stripes).save(file)
    assert (run.read_picture(file) * 255 - 100).abs().max() <= 5


def test_sixteen_bits_are_read_as_the_same_greys(tmp_path: Path) -> None:
    greys = np.tile(np.arange(128, dtype=np.uint16) * 257 * 2, (128, 1))
    file = tmp_path / "grey.png"
    file.write_bytes(cv2.imencode(".png", greys)[1].tobytes())
    found = run.read_picture(file)[0] * 255
    assert torch.equal(found, torch.from_numpy(greys / 257).float().expand(3, -1, -1))


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (128, 128))
    picture.paste((255, 255, 255), (0, 0, 128, 64))  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    file = tmp_path / "turned.png"
    picture.save(file, exif=exif)
    found = run.read_picture(file)[0, 0]
    assert found[:, 64:].min() == 1
    assert found[:, :64].max() == 0


def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    broken = np.random.default_rng(0).integers(0, 256, 2000, np.uint8).tobytes()
    for content in (b"", b"no picture", b"\x89PNG\r\n\x1a\n" + broken):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"notes\.txt can't be read as a picture"):
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
    options = Namespace(seed=1, steps=5, cfg=2.0)
    without, control, plusplus = (
        run.sample(load_demo(training=setting.training), setting, judge, options).judged
        for setting in run.SETTINGS[:3]
    )
    assert run.SETTINGS[2].training == PLUSPLUS
    assert plusplus.iou.mean() > control.iou.mean()
    assert control.f1.mean() >= 2 * without.f1.mean()
    assert control.f1.mean() > 0.7
    assert control.iou.mean() > 2 * without.iou.mean()
