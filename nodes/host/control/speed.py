"""Switches that change nothing but time: compiling, and control beside the UNet's encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ....cnpp_core.control.partial import (
    CachedHintBlock,
    HintCache,
    is_controlnet,
    is_divisible,
    partial_network,
)
from .lists import LazyLists, Lists

logger = logging.getLogger(__name__)

MOST_VARIANTS = 4
# Compiling takes a minute, so it outlives a run: by network, then by the blocks asked for.
_COMPILED: WeakKeyDictionary[nn.Module, dict[frozenset[int] | None, tuple[Any, Any]]] = (
    WeakKeyDictionary()
)


def require_controlnet(control: Any, option: str) -> None:
    """ValueError naming ``option`` of Control Speed if the control has no network of our kind."""
    if not is_controlnet(getattr(control, "control_model", None)):
        raise ValueError(
            f"Control Speed: '{option}' needs a ControlNet for SD1.5, SD2.x or SDXL; this is a "
            f"{type(control).__name__}. Switch it off, the other settings work."
        )


def partial_of(
    network: nn.Module, asked: frozenset[int] | None, hints: HintCache, compiled: bool
) -> nn.Module:
    """The part of ``network`` that computes these blocks, through torch.compile if asked for."""
    if not compiled or not is_divisible(network):
        return partial_network(network, asked, hints)
    variants = _COMPILED.setdefault(network, {})
    if asked not in variants and len(variants) >= MOST_VARIANTS:
        asked = None  # all of it, rather than a minute of compiling for every scale that changes
    if asked not in variants:
        partial = partial_network(network, asked, hints)
        variants[asked] = (partial, torch.compile(partial))
    partial, optimized = variants[asked]
    hint_block: CachedHintBlock = partial.input_hint_block
    hint_block.hints = hints
    return optimized


def release(network: nn.Module) -> None:
    """Let go of the hints that the compiled variants of a network have seen."""
    for partial, _ in _COMPILED.get(network, {}).values():
        partial.input_hint_block.hints = HintCache()


def calls_for_eager(options: dict[str, Any], model: Any) -> bool:
    """True if the UNet itself is compiled: it would trace control that is computed on demand."""
    patched = type(getattr(model, "diffusion_model", None)).__name__ == "OptimizedModule"
    wrapped = options.get("wrappers", {}).get("apply_model", {}).get("torch.compile")
    return patched or bool(wrapped)


def can_overlap(x: Tensor, control: Any) -> bool:
    """True on CUDA with all weights loaded; where the host moves them, it uses its own streams."""
    patcher = getattr(control, "control_model_wrapped", None)
    if not x.is_cuda or patcher is None:
        return False
    if getattr(patcher, "is_dynamic", lambda: False)():
        logger.info("Control Speed: overlap is off, ComfyUI moves the weights dynamically.")
        return False
    return patcher.loaded_size() >= patcher.model_size()


def beside(compute: Callable[[], Lists], inputs: Iterable[Any]) -> Lists:
    """Start ``compute`` on a stream of its own; the UNet waits where it first needs the result.

    inputs: all tensors that ``compute`` reads, so that their memory outlives it.
    """
    tensors = [value for value in inputs if isinstance(value, Tensor) and value.is_cuda]
    device = tensors[0].device
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(current)
    for tensor in tensors:
        tensor.record_stream(side)
    try:
        with torch.cuda.stream(side):
            lists = compute()
    except BaseException:
        current.wait_stream(side)
        raise

    def join() -> Lists:
        waiting = torch.cuda.current_stream(device)
        waiting.wait_stream(side)
        for residuals in lists.values():
            for residual in residuals:
                if residual is not None:
                    residual.record_stream(waiting)
        return lists

    return LazyLists(join, [])


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    return _STREAMS[device]
