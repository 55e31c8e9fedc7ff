"""`bench annotators`: merges, names what it leaves out, and fails where ours is slower."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from controlnet_pp.bench import _pairs, annotators

QUICK = ["--size", "64", "--pairs", "2", "--batch"]


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(_pairs, "RESULTS", tmp_path)
    monkeypatch.setattr(annotators, "ALLOWED", 1000.0)
    return tmp_path / "trial-annotators.json"  # two pairs are a trial


def test_every_run_adds_to_the_results_with_its_machine(results):
    assert annotators.main([*QUICK, "1", "--only", "canny"]) == 0
    assert annotators.main([*QUICK, "2", "--only", "canny"]) == 0
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    assert list(found) == ["canny, 64 px, batch 1", "canny, 64 px, batch 2"]
    for entry in found.values():
        assert entry["differing"] == 0
        assert entry["machine"]["threads"] == torch.get_num_threads()
        seconds = entry["seconds"]
        first, second = (a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
        assert entry["time"] == pytest.approx((first + second) / 2)


def test_more_than_the_allowed_time_is_named_and_fails(results, monkeypatch, capsys):
    monkeypatch.setattr(annotators, "ALLOWED", 0.0)
    assert annotators.main([*QUICK, "1", "--only", "canny"]) == 1
    assert "slower than 0.0 of their time: canny, 64 px, batch 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("missing", "advice"),
    [
        ("controlnet_aux.canny", "pip install --no-deps controlnet_aux"),
        ("timm", "pip install --no-deps timm"),
        ("torchvision", "a Python that has torchvision"),
    ],
)
def test_what_is_missing_is_named_with_the_way_to_get_it(
    results, monkeypatch, capsys, missing, advice
):
    def refuse(_size):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setitem(annotators.CONDITIONS, "canny", refuse)
    assert annotators.main([*QUICK, "1", "--only", "canny"]) == 0
    said = capsys.readouterr().out
    assert f"LEFT OUT, not measured: canny: No module named {missing!r}; it needs {advice}" in said
    assert not results.exists()
