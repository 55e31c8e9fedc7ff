"""The demo model, and controls of other loaders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from controlnet_pp.tests.host.control.foreign import of_host
from controlnet_pp.tests.host.harness import Host


@pytest.fixture(scope="session")
def parts(host: Host) -> tuple:
    """MODEL, CLIP, VAE, CONTROL_NET (canny), picture, caption, annotator (seg)."""
    return host.call("CNPP_DemoModel", example=3)


@pytest.fixture
def control_of(host: Host) -> Callable[[str], Any]:
    """A control of another loader by its name; skips where this ComfyUI has none."""

    def of(name: str) -> Any:
        try:
            return of_host(host, name)[1]
        except ImportError as error:
            pytest.skip(f"this ComfyUI has no {name}: {error}")

    return of
