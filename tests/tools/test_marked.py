"""Parts of a Markdown file between comments."""

from __future__ import annotations

import pytest
from controlnet_pp.tools.marked import fill, table

PAGE = """# Title
<!-- nox -s texts: nodes -->
old
<!-- end: nodes -->
between
<!-- nox -s texts: kinds zh -->
<!-- end: kinds zh -->
end
"""


def test_only_what_lies_between_the_marks_is_replaced():
    assert fill(PAGE, {"nodes": "new", "kinds zh": r"\1"}) == (
        "# Title\n<!-- nox -s texts: nodes -->\n\nnew\n\n<!-- end: nodes -->\nbetween\n"
        "<!-- nox -s texts: kinds zh -->\n\n\\1\n\n<!-- end: kinds zh -->\nend\n"
    )


def test_filling_twice_changes_nothing():
    once = fill(PAGE, {"nodes": "new", "kinds zh": "x"})
    assert fill(once, {"nodes": "new", "kinds zh": "x"}) == once


def test_a_page_without_marks_stays():
    assert (
        fill("# Title\n<!-- a comment -->\n", {"nodes": "new"}) == "# Title\n<!-- a comment -->\n"
    )


def test_an_unknown_part_is_refused_by_name():
    with pytest.raises(ValueError, match="'kinds zh', there are nodes"):
        fill(PAGE, {"nodes": "new"})


@pytest.mark.parametrize("gone", ["<!-- end: nodes -->", "<!-- nox -s texts: kinds zh -->"])
def test_a_mark_without_its_partner_is_refused(gone: str):
    with pytest.raises(ValueError, match="has no partner"):
        fill(PAGE.replace(gone, ""), {"nodes": "new", "kinds zh": "x"})


def test_a_table_is_markdown():
    assert table(("a", "b"), [("1", "x | y")]) == "| a | b |\n|---|---|\n| 1 | x \\| y |"
