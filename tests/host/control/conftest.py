"""Controls that are not our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from controlnet_pp.tests.host.control.foreign import Foreign, of_host
from controlnet_pp.tests.host.harness import Host


@pytest.fixture
def kind_of(host: Host) -> Callable[[str], tuple[Foreign, Any]]:
    """A kind of control by its name, and one of it; skips where this ComfyUI has none."""

    def of(name: str) -> tuple[Foreign, Any]:
        try:
            return of_host(host, name)
        except ImportError as error:
            pytest.skip(f"this ComfyUI has no {name}: {error}")

    return of
