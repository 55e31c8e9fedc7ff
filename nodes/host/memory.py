"""Memory of the host: what running out of it is, how much fits, and what to do if it does not.

Versions and back ends of the host disagree about the first, so the pack asks nowhere but here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from comfy import model_management

log = logging.getLogger(__name__)

T = TypeVar("T")

USABLE = 0.9  # of the free memory: some is lost between what is in use
CUDA_ALLOCATION = 2  # cudaErrorMemoryAllocation and hipErrorOutOfMemory
AcceleratorError = getattr(torch, "AcceleratorError", ())  # from torch 2.8 on
# In a RuntimeError: of CUDA, HIP and MPS; of XPU; of cuBLAS and its like; of the CPU; of DirectML.
WORDS = (
    "out of memory",
    "out_of_device_memory",
    "status_alloc_failed",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "not enough gpu video memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device. Of an interrupt it is False.

    The host's own `OOM_EXCEPTION` says so too, unless it is Exception, which every error is.
    """
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, AcceleratorError) and _code(error) == CUDA_ALLOCATION:
        return True
    kind = model_management.OOM_EXCEPTION
    if kind is not Exception and isinstance(error, kind):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in WORDS)


def out_of_memory(message: str) -> Exception:
    """An error that the host knows as one of memory, at which it unloads its models."""
    kind = model_management.OOM_EXCEPTION
    return MemoryError(message) if kind is Exception else kind(message)


def rows_that_fit(bytes_per_row: int, device: torch.device) -> int:
    """Rows of a batch that the free memory of a device has room for together, at least 1."""
    free = model_management.get_free_memory(device)
    return max(1, int(free * USABLE) // bytes_per_row)


def unless_out_of_memory(function: Callable[[], T]) -> T | None:
    """What the function gives, never None; None if there was not the memory. Other errors go on.

    Afterwards all that the function had made is gone, and the memory free to be taken again.
    """
    try:
        return function()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        pending = isinstance(error, AcceleratorError)
    # Out here the exception is gone, and with it the frames that hold tensors and a graph.
    if pending and torch.cuda.is_available():
        # CUDA tells of it a second time, at the next call. The oldest hosts don't know.
        getattr(model_management, "discard_cuda_async_error", lambda: None)()
    model_management.soft_empty_cache()
    return None


class PartsThatFit:
    """Takes batches part by part, as many rows at a time as fit, found out by trying.

    rows: how many to try first; halved each time they are too many, and remembered.
    """

    def __init__(self, rows: int, who: str) -> None:
        self.rows = rows
        self._who = who

    def of(
        self,
        count: int,
        function: Callable[[int, int], T],
        too_large: Callable[[], str] | None = None,
    ) -> Iterator[T]:
        """What `function(start, stop)` gives, never None, for one part after another of `count`.

        Can be interrupted in between. Where a single row does not fit, its error goes on as it
        came, or one with the words of `too_large`.
        """
        start = 0
        while start < count:
            model_management.throw_exception_if_processing_interrupted()
            stop = min(start + self.rows, count)
            single = stop - start == 1
            if single and too_large is None:
                found = function(start, stop)
            else:
                found = unless_out_of_memory(partial(function, start, stop))
            if found is not None:
                yield found
                start = stop
            elif single and too_large is not None:
                raise out_of_memory(too_large())
            else:
                self.rows = (stop - start + 1) // 2
                log.info("%s: out of memory, going on with %d at a time.", self._who, self.rows)


def _code(error: BaseException) -> int | None:
    return getattr(error, "error_code", None)
