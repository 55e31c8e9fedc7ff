"""FID and CLIP score, with small models in the place of the downloads."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from controlnet_pp.evaluate.extras import clip_score, fid, read_prompts
from controlnet_pp.evaluate.pairs import find_pairs
from PIL import Image
from scipy.linalg import sqrtm

CPU = torch.device("cpu")


def save(seed: int, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def pairs(tmp_path: Path):
    for index in range(12):
        save(index, tmp_path / "conditions" / f"{index}.png")
        save(100 + index, tmp_path / "real" / f"{index}.png")
        for group in range(2):
            save(
                1000 * (group + 2) + index,
                tmp_path / "pictures" / f"group_{group}" / f"{index}.png",
            )
    return find_pairs(tmp_path / "pictures", tmp_path / "conditions")


class Means(torch.nn.Module):
    """Four numbers for a picture: the means of its quarters."""

    num_features = 4

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.adaptive_avg_pool2d(pixels.double(), 2)
        return pooled.mean(1).flatten(1)


def features(files: list[Path]) -> np.ndarray:
    pictures = [np.array(Image.open(file)).astype(float).mean(-1) for file in files]
    return np.array([p.reshape(2, 8, 2, 8).mean((1, 3)).flatten() for p in pictures])


def distance(a: np.ndarray, b: np.ndarray) -> float:
    product = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    spread = np.trace(np.cov(a.T) + np.cov(b.T) - 2 * product)
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + spread


def test_fid_is_the_mean_over_the_groups_of_the_frechet_distance(pairs, tmp_path):
    real = features(sorted((tmp_path / "real").iterdir()))
    groups = [features([pair.pictures[g] for pair in pairs]) for g in range(2)]
    expected = np.mean([distance(real, group) for group in groups])
    found = fid(pairs, tmp_path / "real", CPU, Means())
    assert found == pytest.approx(expected, rel=1e-3)


def test_fid_without_its_package_says_what_to_install(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"--fid needs.*pip install torchmetrics torch-fidelity"):
        fid(pairs, tmp_path / "real", CPU)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ValueError, match=r"--fid needs.*pip install torchmetrics torch-fidelity"):
        fid(pairs, tmp_path / "real", CPU)


def test_fid_needs_real_pictures(pairs, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds 0 pictures"):
        fid(pairs, tmp_path / "empty", CPU, Means())


def test_fid_takes_two_real_pictures_and_two_of_each_group(pairs, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    save(100, few / "a.png")
    with pytest.raises(ValueError, match="holds 1 pictures; at least 2"):
        fid(pairs, few, CPU, Means())
    save(101, few / "b.png")
    assert fid(pairs, few, CPU, Means()) > 0
    unequal = [pairs[0], *(replace(pair, pictures=pair.pictures[:1]) for pair in pairs[1:])]
    with pytest.raises(ValueError, match="group 2 has 1 pictures; 2 are needed"):
        fid(unequal, tmp_path / "real", CPU, Means())
    two = [*pairs[:2], *(replace(pair, pictures=pair.pictures[:1]) for pair in pairs[2:])]
    real = features(sorted((tmp_path / "real").iterdir()))
    groups = [
        features([pair.pictures[g] for pair in two if g < len(pair.pictures)]) for g in (0, 1)
    ]
    expected = np.mean([distance(real, group) for group in groups])
    assert fid(two, tmp_path / "real", CPU, Means()) == pytest.approx(expected, rel=1e-3)


def test_clip_without_its_package_says_what_to_install(pairs, tmp_path, monkeypatch):
    (tmp_path / "prompts.json").write_text(json.dumps({str(i): "a" for i in range(12)}))
    monkeypatch.setitem(sys.modules, "torchmetrics.multimodal.clip_score", None)
    with pytest.raises(ValueError, match=r"--clip needs.*pip install torchmetrics transformers"):
        clip_score(pairs, tmp_path / "prompts.json", CPU)


def test_prompts_come_from_json_or_from_text_files(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps({"a": "a red circle", "b": "x"}))
    assert read_prompts(tmp_path / "one.json", ["a"])["a"] == "a red circle"
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a red circle\n")
    assert read_prompts(tmp_path / "texts", ["a"]) == {"a": "a red circle"}
    with pytest.raises(ValueError, match=r"no prompt for c \(1 of 2"):
        read_prompts(tmp_path / "one.json", ["a", "c"])
