"""The demo model, and controls of other loaders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from controlnet_pp.tests.host.control.foreign import of_host
from controlnet_pp.tests.host.harness import Host
from controlnet_pp.tests.host.train.given import begun, data_of


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


@pytest.fixture(scope="session")
def given(host: Host, parts: tuple) -> dict[str, Any]:
    """The inputs of a training of the demo's canny ControlNet on segments."""
    return {
        "model": parts[0],
        "control_net": begun(host, control_net=parts[3]),
        "data": data_of(host, parts, pictures=4, held_out=1),
    }


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Presses Cancel when a training has taken so many steps."""
    from comfy import model_management, utils

    def at(step: int) -> None:
        def hook(value: float, _total: float, _preview: Any, **_more: Any) -> None:
            if value == step:
                model_management.interrupt_current_processing()

        monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", hook)
        for name in ("PROGRESS_THROTTLE_MIN_INTERVAL", "PROGRESS_THROTTLE_MIN_PERCENT"):
            monkeypatch.setattr(utils, name, 0.0, raising=False)

    return at
