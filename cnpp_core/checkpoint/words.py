"""Words for what a foreign file holds: names escaped and cut, refusals of one form."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

DOWNLOAD_AGAIN = "download it again and compare its size with the one on the download page"
SAVE_AS_SAFETENSORS = "get it as .safetensors instead"
WHOLE = "get the ControlNet as one file"
UNPACK = "unpack it and choose the model inside"
LONGEST_SHOWN = 100
# Every name is looked at many times; whole SDXL checkpoints have 2,600, none of 200 characters.
MOST_TENSORS, LONGEST_NAME = 10_000, 300


def shown(text: object, longest: int = LONGEST_SHOWN) -> str:
    """A foreign text as it may be printed: one line, control characters escaped, cut if long."""
    text = text if isinstance(text, str) else str(text)
    cut = text if len(text) <= longest else f"{text[:longest]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown(name) for name in names[:limit]) + more


def refusal(path: str | os.PathLike[str], what: str, advice: str) -> ValueError:
    """What is wrong with the file, and what to do: one sentence."""
    return ValueError(f"{shown(Path(path).name, 200)} {what}: {advice}.")


def first_line(error: BaseException) -> str:
    """The first sentence of another library's error, which may quote the file."""
    sentence = re.split(r"\n|\. ", str(error).strip()[:1000])[0]
    return shown(sentence.rstrip("."), 120) or type(error).__name__


def require_few(path: str | os.PathLike[str], names: Collection[str]) -> None:
    """ValueError for more tensors or longer names than can be looked at in a moment."""
    advice = "choose a ControlNet file, which has some hundred tensors with names of 100 characters"
    if len(names) > MOST_TENSORS:
        raise refusal(
            path, f"holds {len(names):,} tensors, at most {MOST_TENSORS:,} are read", advice
        )
    longest = max(names, key=len, default="")
    if len(longest) > LONGEST_NAME:
        what = f"has a tensor whose name is {len(longest):,} characters long ({shown(longest, 40)})"
        raise refusal(path, what, advice)
