"""A kind of condition is a row in the core and one in the annotators, and each is complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from controlnet_pp.annotators.kinds import ADE20K, KINDS, Row, Ways
from controlnet_pp.annotators.normal import normal_image
from controlnet_pp.annotators.tile import tile_resample
from controlnet_pp.annotators.weights import WEIGHTS
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.agreement.measure import Measure
from controlnet_pp.evaluate.paper import PUBLISHED
from controlnet_pp.evaluate.sources import Source, annotator_for
from controlnet_pp.tests.consistency.agreement.known import (
    SIZE,
    normal_map,
    person,
    photo,
    pose,
    slope,
)

ROOT = Path(__file__).resolve().parent.parent
every_kind = pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)


def test_both_tables_have_the_same_kinds_in_one_order():
    assert [kind.key for kind in Condition] == list(KINDS)


@every_kind
def test_a_kind_knows_what_agreement_and_its_losses_are(kind: Condition):
    measure = kind.measure(classes=ADE20K)
    assert isinstance(measure, Measure)
    assert measure.metric
    assert measure.legend
    assert Condition.named(kind.key) is kind
    assert callable(kind.value.reward)
    assert callable(kind.value.guidance)


@every_kind
def test_a_kind_has_a_method_that_reads_pictures_and_comes_first(kind: Condition):
    row = KINDS[kind.key]
    assert isinstance(row, Row)
    assert row[0].reads == "picture"
    assert row.method() is row[0]
    for method in row:
        assert row.method(method.name) is row.method(method.label) is method
        assert all(network.key in WEIGHTS for network in method.networks)


@pytest.mark.parametrize("kind", [kind for kind in Condition if kind is not Condition.TILE])
def test_a_kind_is_called_as_its_node_is(kind: Condition):
    """Tables and messages lead from one to the other; only the tile has no node of its own."""
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert kind.value.label in {node["display_name"] for node in texts.values()}


FLIPPED = normal_image(slope(turn=1.0).flip(-1), background=0.0, strength=500)
OF_THE_MIRRORED = {
    Condition.POSE: (pose(person(90, 100)), pose(person(SIZE - 1 - 90, 100))),
    Condition.NORMAL: (normal_map(turn=1.0), FLIPPED),
    Condition.TILE: (tile_resample(photo()), tile_resample(photo().flip(-1))),
}


@pytest.mark.parametrize("kind", OF_THE_MIRRORED, ids=lambda kind: kind.name)
def test_a_kind_is_sided_if_a_mirrored_picture_has_another_condition_than_a_mirrored_one(kind):
    condition, of_the_mirrored = OF_THE_MIRRORED[kind]
    same = torch.allclose(condition.flip(-1), of_the_mirrored, atol=0.2)
    assert kind.value.sided is not same


@every_kind
def test_a_kind_can_be_evaluated(kind: Condition, monkeypatch):
    monkeypatch.setattr(Source, "network", lambda _self, wanted: wanted.kind.__new__(wanted.kind))
    found = annotator_for(kind, Source([]))
    assert isinstance(found.ways, Ways)
    assert found.ways.soft is not None or kind.key == "scribble"


@pytest.mark.parametrize("kind", [kind for kind in Condition if KINDS[kind.key].without_weights])
def test_what_needs_no_weights_finds_a_condition_that_its_measure_reads(kind: Condition):
    picture = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    picture = torch.nn.functional.interpolate(picture, scale_factor=16.0, mode="bilinear")
    for method in KINDS[kind.key].without_weights:
        found = method.ways().find(picture)
        wanted, _ = kind.measure().read(found)
        assert wanted.shape[0] == 2
        assert kind.measure().compare(found, wanted, None).scores.shape == (2,)


def test_an_unknown_kind_or_method_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'plaid' is no kind of condition; there are canny, "):
        Condition.named("plaid")
    with pytest.raises(ValueError, match=r"no method sobel .* one of cnpp, cv2"):
        KINDS["canny"].method("sobel")


@pytest.mark.parametrize("key", [key for key in WEIGHTS if not WEIGHTS[key].commercial])
def test_nodes_and_pages_warn_of_weights_that_forbid_commercial_use(key: str):
    nodes = "".join(
        file.read_text(encoding="utf-8") for file in sorted((ROOT / "nodes").rglob("*.py"))
    )
    assert WEIGHTS[key].name in nodes
    assert "NON-COMMERCIAL USE ONLY" in nodes
    page = (ROOT / "web" / "docs" / "CNPP_OpenPose.md").read_text(encoding="utf-8")
    assert re.search(rf"\| \[{WEIGHTS[key].name}\].*non-commercial \|", page)


@pytest.mark.parametrize("key", WEIGHTS)
def test_every_weight_file_belongs_to_a_kind(key: str):
    used = {n.key for row in KINDS.values() for method in row for n in method.networks}
    assert key in used


def test_thresholds_of_canny_are_refused_in_the_unit_of_the_node():
    with pytest.raises(ValueError, match=r"high 200; it needs 0 <= low <= high <= 1000"):
        KINDS["canny"].method("cnpp").ways(low=300, high=200)


@pytest.mark.parametrize("kind", PUBLISHED, ids=lambda kind: kind.name)
def test_other_methods_than_the_papers_say_so_beside_its_figures(kind: Condition):
    assert all(method.remark for method in KINDS[kind.key][1:])
