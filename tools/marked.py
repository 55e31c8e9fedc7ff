"""Parts of a Markdown file that are written by a program, between comments that the reader skips.

<!-- nox -s texts: nodes -->
...
<!-- end: nodes -->
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_MARK = re.compile(r"<!-- (?:nox -s texts|end): [\w -]+? -->")
_PART = re.compile(
    r"(?P<begin><!-- nox -s texts: (?P<name>[\w -]+?) -->).*?(?P<end><!-- end: (?P=name) -->)",
    re.DOTALL,
)


def fill(text: str, parts: Mapping[str, str]) -> str:
    """``text`` with each marked part replaced by the one of that name.

    ValueError for a mark without its partner, and for a name that ``parts`` lacks.
    """

    def replaced(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in parts:
            raise ValueError(f"a part is marked {name!r}, there are {', '.join(sorted(parts))}")
        return f"{found['begin']}\n\n{parts[name].strip()}\n\n{found['end']}"

    alone = _MARK.search(_PART.sub("", text))
    if alone:
        raise ValueError(f"{alone[0]} has no partner")
    return _PART.sub(replaced, text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell stays a bar."""
    lines = [list(head), ["---"] * len(head), *rows]
    lines = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    rule = "|".join(["", *lines[1], ""])
    drawn = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([drawn[0], rule, *drawn[2:]])
