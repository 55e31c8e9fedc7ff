"""Does the Chinese still say what the English says?

Beside the Chinese lies a memory: for each text a checksum of the English that was translated, and
one of the Chinese. If only the English has changed since, the Chinese is out of date; if the
Chinese has changed too, somebody has seen to it. Checksums suffice: git has the words.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence

from .schemas import Texts

Memory = dict[str, str]  # "CNPP_Apply.inputs.image.tooltip" -> two checksums


def remembered(
    english: Texts, chinese: Texts, memory: Mapping[str, str], still_right: Sequence[str] = ()
) -> Memory:
    """The memory brought up to date; what is out of date stays as it was.

    still_right: texts, or whole nodes, whose Chinese needs no change though the English changed.
    """
    said, translated = dict(_texts(english)), dict(_texts(chinese))
    for name in still_right:
        if not any(_within(key, name) for key in said):
            raise ValueError(f"there is no text {name!r}; a name is like CNPP_Apply.description")
    new = {}
    for key in said.keys() & translated.keys():
        sums = _checksum(said[key]), _checksum(translated[key])
        before = memory.get(key, "").split()
        untouched = len(before) == 2 and before[0] != sums[0] and before[1] == sums[1]
        confirmed = any(_within(key, name) for name in still_right)
        new[key] = memory[key] if untouched and not confirmed else " ".join(sums)
    return {key: new[key] for key in said if key in new}


def gaps(english: Texts, chinese: Texts, memory: Mapping[str, str]) -> dict[str, str]:
    """What is missing, out of date or left over in the Chinese: name of the text -> what it is."""
    said, translated = dict(_texts(english)), dict(_texts(chinese))
    found = {}
    for key, text in said.items():
        if key not in translated:
            found[key] = f"missing: {text}"
        elif memory.get(key, "").split()[:1] != [_checksum(text)]:
            found[key] = f"English now: {text}\n    Chinese still: {translated[key]}"
    return found | {key: "left over" for key in translated if key not in said}


def _texts(entries: Texts, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in entries.items():
        if isinstance(value, dict):
            yield from _texts(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
