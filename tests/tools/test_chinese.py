"""A translation that the English has left behind."""

from __future__ import annotations

import pytest
from controlnet_pp.tools.chinese import gaps, remembered

ENGLISH = {"CNPP_A": {"description": "Edges.", "inputs": {"low": {"tooltip": "Weak."}}}}
CHINESE = {"CNPP_A": {"description": "边缘。", "inputs": {"low": {"tooltip": "弱。"}}}}
MEMORY = remembered(ENGLISH, CHINESE, {})


def described(texts, description: str):
    return {"CNPP_A": texts["CNPP_A"] | {"description": description}}


def test_what_was_translated_has_no_gaps():
    assert gaps(ENGLISH, CHINESE, MEMORY) == {}
    assert remembered(ENGLISH, CHINESE, MEMORY) == MEMORY


def test_english_that_has_changed_since_is_a_gap_however_often_it_is_looked_at():
    new = described(ENGLISH, "Soft edges.")
    memory = remembered(new, CHINESE, remembered(new, CHINESE, MEMORY))
    assert list(gaps(new, CHINESE, memory)) == ["CNPP_A.description"]


def test_changing_the_chinese_too_closes_it():
    new, translated = described(ENGLISH, "Soft edges."), described(CHINESE, "柔和边缘。")
    assert gaps(new, translated, remembered(new, translated, MEMORY)) == {}
    later = remembered(new, translated, remembered(new, CHINESE, MEMORY))
    assert gaps(new, translated, later) == {}


@pytest.mark.parametrize("name", ["CNPP_A.description", "CNPP_A"])
def test_saying_that_the_chinese_is_still_right_closes_it(name: str):
    new = described(ENGLISH, "Edges!")
    assert gaps(new, CHINESE, remembered(new, CHINESE, MEMORY, [name])) == {}


def test_better_chinese_of_the_same_english_is_remembered():
    better = described(CHINESE, "轮廓。")
    memory = remembered(ENGLISH, better, MEMORY)
    new = described(ENGLISH, "Soft edges.")
    assert list(gaps(new, better, remembered(new, better, memory))) == ["CNPP_A.description"]


def test_saying_so_of_a_text_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"no text 'CNPP_A\.desc'"):
        remembered(ENGLISH, CHINESE, MEMORY, ["CNPP_A.desc"])


def test_what_is_missing_or_left_over_is_named():
    new = ENGLISH | {"CNPP_B": {"description": "Lines."}}
    old = CHINESE | {"CNPP_C": {"description": "点。"}}
    memory = remembered(new, old, MEMORY)
    assert gaps(new, old, memory) == {
        "CNPP_B.description": "missing: Lines.",
        "CNPP_C.description": "left over",
    }
    assert memory == MEMORY
