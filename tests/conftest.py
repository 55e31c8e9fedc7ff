"""Mounts the checkout as the package `controlnet_pp`, whatever its folder is called.

What tests share is imported from there too: `from controlnet_pp.tests.host.harness import Host`.

Host tests (everything in tests/host, or marked `host`) are skipped, with the reason, where there is
no ComfyUI or where this Python can't run it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALIAS = "controlnet_pp"


def _mount() -> None:
    spec = importlib.util.spec_from_file_location(
        ALIAS, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = module  # before exec: the module may import from itself
    spec.loader.exec_module(module)


if ALIAS not in sys.modules:
    _mount()
comfy_host = importlib.import_module(f"{ALIAS}.tests.comfy_host")


def pytest_configure() -> None:
    """Refuse a COMFYUI_PATH that leads nowhere, instead of skipping in silence."""
    try:
        comfy_host.find_host()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests/host as `host`, and skip what this machine can't run, naming the reason."""
    no_host = comfy_host.why_not()
    for item in items:
        if (ROOT / "tests" / "host") in item.path.parents:
            item.add_marker(pytest.mark.host)
        if no_host and item.get_closest_marker("host"):
            item.add_marker(pytest.mark.skip(reason=no_host))
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_report_header() -> str:
    """Say at the top whether the host tests run."""
    reason = comfy_host.why_not()
    if reason:
        return f"ComfyUI tests: SKIPPED, {reason}"
    host = comfy_host.find_host()
    return f"ComfyUI tests: {host} ({comfy_host.host_version(host)})"


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def comfy_root() -> Path:
    """The ComfyUI folder, importable and set to the CPU; skips where there is none."""
    reason = comfy_host.why_not()
    if reason:
        pytest.skip(reason)
    assert "comfy.model_management" not in sys.modules, "ComfyUI was imported before the fixture"
    root = comfy_host.start()
    nodes = importlib.import_module("nodes")
    assert Path(nodes.__file__).parent.resolve() == root, f"`nodes` is {nodes.__file__}"
    return root
