"""One ComfyUI for all host tests; the pack comes out of its own registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from controlnet_pp.tests.host.harness import Host


@pytest.fixture(scope="session")
def host(comfy_root: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host with our pack loaded by its own loader."""
    torch.set_num_threads(1)  # on tiny networks, threads mostly wait for each other
    running = Host(comfy_root, repo, tmp_path_factory.mktemp("comfy"))
    yield running
    running.forget()
