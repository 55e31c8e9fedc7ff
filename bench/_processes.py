"""What can be measured in a fresh process only: loading a file, and how much memory calls need.

The parent starts a child for each measurement; the child prints its numbers as JSON. Memory is the
resident set as Linux reports it; elsewhere there is none to compare.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from ..cnpp_core.control.shape import ControlShape
from ..cnpp_core.network.config import NetworkConfig
from ._host import Requests, Workbench, ours, start, theirs

ROOT = Path(__file__).resolve().parent.parent
RUN = "import sys; sys.path.insert(0, {root!r}); import cli; cli.part({part!r}).child(sys.argv[1:])"
OURS, THEIRS, FAST = "ours", "theirs", "fast"
MEGABYTE = 2**20
STATUS = Path("/proc/self/status")


def in_child(*arguments: str, of: str = "bench._processes") -> dict[str, Any]:
    """The numbers of one measurement in a fresh process; RuntimeError with how it ended.

    of: the module whose `child` takes the arguments and prints the numbers.
    """
    command = [sys.executable, "-c", RUN.format(root=str(ROOT), part=of), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        ended = f"ended with {done.returncode}: {done.stderr.strip()[-2000:]}"
        raise RuntimeError(f"{' '.join(arguments)} {ended}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def child(arguments: Sequence[str]) -> None:
    """`load WHO FILE CHANNELS` or `call WHO SIZE CHANNELS`, in a process of its own."""
    task, who, what, channels = arguments
    start()
    tasks: dict[str, Callable[..., dict[str, float]]] = {"load": _load, "call": _call}
    config = NetworkConfig(model_channels=int(channels))
    with torch.inference_mode():
        print(json.dumps(tasks[task](who, what, config)))


def write_file(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write tensors of any shape (...) to a safetensors file, down to the disk itself."""
    from safetensors.torch import save_file

    save_file(weights, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_through(path: Path) -> None:
    """Read a file once, so that it lies in the page cache."""
    with path.open("rb") as file:
        while file.read(16 * MEGABYTE):
            pass


class Memory:
    """How far the resident set grows from here on, in MB; NaN where the system does not tell."""

    def __init__(self) -> None:
        self.forget()
        self._before = _status("VmRSS")

    def forget(self) -> None:
        """Only what comes from here on counts for the highest value."""
        if STATUS.is_file():
            # 5 sets the highest value so far back to the present one (proc(5)).
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def grown(self) -> dict[str, float]:
        """The highest growth so far, as {"peak": MB}."""
        return {"peak": _status("VmHWM") - self._before}


def _status(name: str) -> float:
    if not STATUS.is_file():
        return float("nan")
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _load(who: str, file: str, config: NetworkConfig) -> dict[str, float]:
    """Load, and look once at every page of the weights: mapped pages cost nothing before that."""
    if who == OURS:
        load = ours("nodes.host.load.loading").load_control
    else:
        load = theirs("comfy.controlnet").load_controlnet
        _teach(config)
    memory, began = Memory(), perf_counter()
    control = load(file)
    loaded = perf_counter() - began
    network = (control[0] if who == OURS else control).control_model
    _touch(network)
    return {"loaded": loaded, "seconds": perf_counter() - began, **memory.grown()}


def _touch(network: nn.Module) -> None:
    page = 4096
    for parameter in network.parameters():
        parameter.data.view(-1)[:: max(1, page // parameter.element_size())].float().sum()


def _teach(config: NetworkConfig) -> None:
    """Let ComfyUI's loader take a narrow network for an SD1.5."""
    families: Any = theirs("comfy.supported_models")
    if config.model_channels != families.SD15.unet_config["model_channels"]:
        shape = {**families.SD15.unet_config, "model_channels": config.model_channels}
        families.models.append(type("Narrow", (families.SD15,), {"unet_config": shape}))


def _call(who: str, size: str, config: NetworkConfig) -> dict[str, float]:
    """The first three steps of a control."""
    from .adherence import RECOMMENDED

    bench = Workbench.build(config, unet=False)
    shapes = {OURS: ControlShape(), FAST: RECOMMENDED.shape}
    control = bench.our_control(shapes[who]) if who in shapes else bench.their_control()
    requests = Requests(bench, int(size), steps=20)
    requests.started(control)
    memory = Memory()
    for step in range(3):
        requests.residuals(control, step)
    return memory.grown()
