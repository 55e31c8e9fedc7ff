"""The pins only grow."""

from __future__ import annotations

import pytest
from controlnet_pp.tools.schemas import extended

PINS = {
    "CNPP_A": {
        "inputs": ["image", "low", "high"],
        "required": ["image", "low"],
        "outputs": ["IMAGE", "MASK"],
    }
}


def with_a(**changed: list[str]) -> dict[str, dict[str, list[str]]]:
    return {"CNPP_A": PINS["CNPP_A"] | changed}


@pytest.mark.parametrize(
    "now",
    [
        PINS,
        {"CNPP_B": {"inputs": ["a"], "required": ["a"], "outputs": []}} | PINS,
        with_a(inputs=["image", "low", "high", "mode"]),
        with_a(outputs=["IMAGE", "MASK", "STRING"]),
    ],
)
def test_what_is_added_behind_the_rest_is_taken(now):
    assert extended(PINS, now) == now


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({}, "CNPP_A is gone"),
        ({"CNPP_B": PINS["CNPP_A"]}, "CNPP_A is gone"),
        (with_a(inputs=["image", "high", "low"]), "image, low, high; now image, high, low"),
        (with_a(inputs=["image", "mode", "low", "high"]), "inputs of CNPP_A were"),
        (with_a(inputs=["image", "low"]), "inputs of CNPP_A were"),
        (with_a(required=["image", "low", "high"]), "CNPP_A did not require high; now it does"),
        (
            with_a(inputs=["image", "low", "high", "mode"], required=["image", "low", "mode"]),
            "CNPP_A did not require mode",
        ),
        (with_a(outputs=["MASK", "IMAGE"]), "outputs of CNPP_A were IMAGE, MASK; now MASK, IMAGE"),
    ],
)
def test_what_breaks_saved_workflows_is_refused_in_words(now, words):
    with pytest.raises(ValueError, match="Saved workflows would break") as error:
        extended(PINS, now)
    assert words in str(error.value)
