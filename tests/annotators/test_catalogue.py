"""The catalogue of weight files: what a user is told of each, and what each must hold."""

from __future__ import annotations

import re

import pytest
import torch
from controlnet_pp.annotators import weights
from controlnet_pp.annotators.catalogue import WEIGHTS
from controlnet_pp.annotators.weights import manifest
from controlnet_pp.tests.annotators.aux_oracle import aux

FILES = [key for key, file in WEIGHTS.items() if not file.files]


@pytest.mark.parametrize("key", WEIGHTS)
def test_every_file_has_what_a_user_must_know_before_getting_it(key):
    for file in (WEIGHTS[key], *WEIGHTS[key].files):
        assert file.url.startswith("https://huggingface.co/")
        assert file.size or file.about
        assert file.licence
        assert re.fullmatch(r"[\d.]+ MB|about \d+ MB", file.size_text)
        if not file.files:
            assert file.url.endswith(f"/resolve/main/{file.name}")
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_the_openpose_files_forbid_commercial_use_and_no_other_does():
    forbidden = {key for key, file in WEIGHTS.items() if not file.commercial}
    assert forbidden == {"openpose_body", "openpose_hand"}
    for key in forbidden:
        assert "NO COMMERCIAL USE" in WEIGHTS[key].licence_text


@pytest.mark.parametrize(
    ("key", "parameters", "tensors"),
    [
        ("hed", 14_716_168, 37),
        ("mlsd", 1_533_680, 362),
        ("lineart", 4_290_945, 24),
        ("lineart_coarse", 4_290_945, 24),
        ("openpose_body", 52_311_446, 184),
        ("openpose_hand", 36_832_324, 104),
        ("dpt_hybrid", 123_146_985, 368),
    ],
)
def test_manifests_have_the_published_numbers_of_parameters_and_tensors(key, parameters, tensors):
    counters = ("running_mean", "running_var", "num_batches_tracked")
    shapes = manifest(key)
    assert len(shapes) == tensors
    learned = (torch.Size(s).numel() for name, s in shapes.items() if not name.endswith(counters))
    assert sum(learned) == parameters


def test_there_is_a_manifest_for_every_file():
    assert {path.stem for path in weights.MANIFESTS.glob("*.json")} == set(FILES)


@pytest.mark.parametrize(
    ("key", "network"), [("openpose_body", "bodypose_model"), ("openpose_hand", "handpose_model")]
)
def test_openpose_manifests_are_those_of_the_reference_without_the_stages(key, network):
    reference = getattr(aux("open_pose.model"), network)()
    shapes = {n.partition(".")[2]: tuple(v.shape) for n, v in reference.state_dict().items()}
    assert shapes == manifest(key)
