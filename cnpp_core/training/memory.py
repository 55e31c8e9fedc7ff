"""How much memory the batches of a training take, counted while one of them is computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_of_a_batch(
    loss: Callable[[], Tensor], trained: Sequence[nn.Parameter], scale: float = 1.0
) -> int:
    """Most bytes that activations, gradients and what is in between take at a time.

    ``loss`` is computed once, with its gradients, which are dropped. What it makes counts ``scale``
    times, as of a batch so many times as large; gradients of the trained parameters count once.
    """
    count = _Count()
    gradients = {id(p): p.nbytes for p in trained}
    peak = 0

    def note() -> None:
        nonlocal peak
        done = sum(gradients[id(p)] for p in trained if p.grad is not None)
        # They are among what was made, so the batch is the rest.
        batch = max(count.live - done, 0)
        peak = max(peak, int(done + scale * batch))

    count.grown = note
    before = [p.grad for p in trained]
    for parameter in trained:
        parameter.grad = None
    try:
        with torch.enable_grad(), count:
            loss().backward()
    finally:
        for parameter, gradient in zip(trained, before, strict=True):
            parameter.grad = gradient
    return peak


class _Count(TorchDispatchMode):
    """The bytes of all tensors that were made in this context and are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.known: set[int] = set()
        self.grown: Callable[[], None] = lambda: None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {id(s) for s in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in given and id(storage) not in self.known:
                self._add(storage)
        self.grown()
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self.known.add(key)
        self.live += size
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [v.untyped_storage() for v in tree_leaves(values) if isinstance(v, Tensor)]
