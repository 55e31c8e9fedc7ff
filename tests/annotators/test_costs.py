"""The cost of the networks against the published counts, and against the weights they load."""

from __future__ import annotations

import pytest
from controlnet_pp.annotators.costs import network_costs, text
from controlnet_pp.annotators.weights import WEIGHTS

COSTS = {cost.name: cost for cost in network_costs()}
# Parameters and GMAC as the papers' code gives them; the second measured on the reference networks.
PUBLISHED = {
    "HED": (14_716_168, 80.2),
    "Line Art": (4_290_945, 80.6),
    "M-LSD": (1_533_680, 25.5),
    "OpenPose body": (52_311_446, 135.9),
    "OpenPose hand": (36_832_324, 103.2),
    "DPT-hybrid": (123_146_985, 127.6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(name: str):
    parameters, gmac = PUBLISHED[name]
    assert COSTS[name].parameters == parameters
    assert COSTS[name].macs / 1e9 == pytest.approx(gmac, abs=0.06)


def test_every_network_with_a_weight_file_is_in_the_table():
    listed = {file for cost in COSTS.values() for file in cost.files}
    single = {file.name for file in WEIGHTS.values() if not file.files}
    assert listed == single


def test_sizes_in_and_out():
    assert COSTS["HED"].input == (3, 512, 512)
    assert COSTS["HED"].outputs == tuple((1, 512 >> k, 512 >> k) for k in range(5))
    assert COSTS["OpenPose body"].outputs == ((38, 46, 46), (19, 46, 46))
    assert COSTS["DPT-hybrid"].outputs == ((1, 384, 384),)


def test_the_text_has_a_row_for_every_network():
    lines = text().splitlines()
    assert len(lines) == 1 + len(COSTS)
    assert all(line.startswith(name) for line, name in zip(lines[1:], COSTS, strict=True))
    assert "123,146,985" in lines[-1]
