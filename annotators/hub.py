"""Where Hugging Face's own tools were told to look: the download cache, and a mirror."""

from __future__ import annotations

import os
from pathlib import Path

HUB = "https://huggingface.co"


def cache_folders() -> list[Path]:
    """The download cache: HF_HUB_CACHE, else `hub` in HF_HOME, else the usual place."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return [Path(named).expanduser()]
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return [Path(home).expanduser() / "hub"]


def mirrored(url: str) -> str:
    """An address of the hub at the mirror that HF_ENDPOINT names, if any."""
    mirror = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return mirror + url.removeprefix(HUB) if mirror and url.startswith(HUB + "/") else url
