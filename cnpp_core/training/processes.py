"""Where a training runs: alone on a device, or shared by processes and machines.

The trainer asks these for everything that depends on it: device, precision, and what the processes
tell each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .tracking import Tracker

SEEDS_APART = 1_000_003  # so that neighbouring seeds of several processes do not meet


class OneProcess:
    """This process alone, on one device."""

    index = 0
    count = 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def generator(self, seed: int) -> torch.Generator:
        """A CPU generator of this process: each draws its own part of the data."""
        return torch.Generator().manual_seed(seed + SEEDS_APART * self.index)

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        """In it, what can be is computed in this half dtype."""
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def scaler(self, dtype: torch.dtype | None) -> torch.amp.GradScaler:
        """Keeps gradients inside the range of float16; does nothing for other dtypes."""
        return torch.amp.GradScaler(self.device.type, enabled=dtype is torch.float16)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors of all processes the values of the first one's, in place."""

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors of all processes their mean, in place."""

    def gather(self, value: Tensor) -> Tensor:
        """The value (...) of every process, (count, ...) on the CPU."""
        return value.cpu()[None]

    def gather_states(self, state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The tensors of every process on the CPU, whatever their names and shapes."""
        return [{name: tensor.detach().cpu() for name, tensor in state.items()}]

    def trackers(self, folder: Path) -> list[Tracker]:
        """What else shows the course of the training, besides the CSV file."""
        return []


class Accelerated(OneProcess):
    """All processes that `torchrun` has started, through Hugging Face `accelerate`.

    (`accelerate launch` starts them as well, but on CPUs a single one, whatever number it is told.)
    Every process holds the whole network and draws batches of its own; their gradients are
    averaged, so that n processes are one with n times the batch. Raises ValueError if the package
    is missing, or is set up for what is not done here.
    """

    def __init__(self, device: str | None = None) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise ValueError(
                f"Training in several processes needs the package accelerate ({error}): install it "
                "with pip install accelerate."
            ) from error
        self.accelerator = Accelerator(cpu=device == "cpu")
        self.index = self.accelerator.process_index
        self.count = self.accelerator.num_processes
        super().__init__(self.accelerator.device)
        way = self.accelerator.distributed_type.value
        if way != "NO" and not way.startswith("MULTI_"):
            raise ValueError(
                f"accelerate is set up for {way}, which splits the network: here every process "
                "holds all of it. Choose plain data parallelism in `accelerate config`, or use "
                "torchrun."
            )

    def autocast(self, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
        asked = {None: "no", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]
        if self.accelerator.mixed_precision not in ("no", asked):
            raise ValueError(
                f"accelerate is set up for mixed precision {self.accelerator.mixed_precision}, the "
                f"settings of the training say {asked}: make them equal."
            )
        return super().autocast(dtype)

    def share(self, tensors: Iterable[Tensor]) -> None:
        from accelerate.utils import broadcast

        for tensor in tensors:
            tensor.copy_(broadcast(self._here(tensor)))

    def average(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(self.accelerator.reduce(self._here(tensor), "mean"))

    def gather(self, value: Tensor) -> Tensor:
        return self.accelerator.gather(self._here(value)[None]).cpu()

    def gather_states(self, state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        from accelerate.utils import gather_object

        return gather_object(super().gather_states(state))

    def trackers(self, folder: Path) -> list[Tracker]:
        if not (find_spec("tensorboard") or find_spec("tensorboardX")):
            return []
        return [_TensorBoard(folder)] if self.index == 0 else []

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device).contiguous()


class _TensorBoard:
    """The same numbers in the files that TensorBoard shows."""

    def __init__(self, folder: Path) -> None:
        from accelerate.tracking import TensorBoardTracker

        self.board = TensorBoardTracker("tensorboard", folder)
        self.board.start()

    def log(self, step: int, values: dict[str, float]) -> None:
        self.board.log(values, step)
