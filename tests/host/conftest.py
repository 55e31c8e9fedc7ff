"""One ComfyUI for all host tests; the pack comes out of its own registry."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for file in (
    "harness",
    "annotate/annotated",
    "control/foreign",
    "steering/guided",
    "steering/looped",
):
    name = file.rpartition("/")[2]
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / f"{file}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


@pytest.fixture(scope="session")
def host(comfy_root: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory):
    """The host with our pack loaded by its own loader."""
    import torch
    from harness import Host

    torch.set_num_threads(1)  # on tiny networks, threads mostly wait for each other
    running = Host(comfy_root, repo, tmp_path_factory.mktemp("comfy"))
    yield running
    running.forget()
