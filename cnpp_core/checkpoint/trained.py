"""How a network was trained, as the header of its file says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .words import shown

VERSION = "0.1.0"  # of this pack, as pyproject.toml has it
KEY = "controlnet_plus_plus"  # of our entry in the header of a safetensors file
# What a foreign entry may be, so that nothing in it takes long to read or to show.
LONGEST, MOST_BRACKETS, MOST_STEPS = 65_536, 100, 10**9
LONGEST_SHOWN = 2000


@dataclass(frozen=True)
class Training:
    """Where the weights of a network come from.

    base: the checkpoint whose UNet it began from. condition: key of the kind that it reads.
    version: of this pack, VERSION. settings: whatever was chosen, ready for JSON.
    """

    base: str
    condition: str
    steps: int
    version: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """As the header of a safetensors file takes it; ValueError for what can't be read again."""
        try:
            metadata = {"format": "pt", KEY: json.dumps(asdict(self), allow_nan=False)}
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The settings of a training are written as JSON, which can't hold them ({error}): "
                "use finite numbers, texts, lists and dictionaries."
            ) from error
        if Training.of(metadata) is None:
            raise ValueError(
                f"A training of {self.steps} steps with {len(metadata[KEY]):,} characters of "
                f"settings can't be written into a file; {LONGEST:,} characters, {MOST_BRACKETS} "
                f"lists and dictionaries and {MOST_STEPS:,} steps are the most."
            )
        return metadata

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Training | None:
        """What a header says; None where it has no such entry, or one that nobody here wrote."""
        entry = metadata.get(KEY, "")
        if len(entry) > LONGEST or entry.count("[") + entry.count("{") > MOST_BRACKETS:
            return None
        try:
            found = cls(**json.loads(entry))
        except (ValueError, TypeError):
            return None
        types = {"base": str, "condition": str, "steps": int, "version": str, "settings": dict}
        if any(type(getattr(found, name)) is not kind for name, kind in types.items()):
            return None
        return found if 0 <= found.steps <= MOST_STEPS else None

    def text(self) -> str:
        """Two lines for people."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return (
            f"trained for {shown(self.condition)} from {shown(self.base)}: {self.steps:,} steps, "
            f"version {shown(self.version)}\n"
            f"settings: {shown(settings, LONGEST_SHOWN) or 'none'}"
        )
