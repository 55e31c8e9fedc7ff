"""Everything that a training consists of, as tensors and numbers by name, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def tensors_of(
    module: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights, averaged weights and what the optimiser remembers; its plain numbers apart."""
    tensors = {f"module.{key}": value for key, value in module.state_dict().items()}
    if averaged is not module:
        tensors |= {f"averaged.{key}": value for key, value in averaged.state_dict().items()}
    numbers = {}
    for index, remembered in optimizer.state_dict()["state"].items():
        for name, value in remembered.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"optimizer.{index}.{name}"] = value
    return tensors, numbers


def load_tensors(
    module: nn.Module,
    averaged: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Put back what `tensors_of` gave; ValueError if it is of another network."""
    try:
        module.load_state_dict(_below("module.", tensors))
        if averaged is not module:
            # A training that goes on with an average begins it with the weights it has.
            weights = _below("averaged.", tensors) or _below("module.", tensors)
            averaged.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"The checkpoint is of another network ({' '.join(str(error).split())[:300]}): choose "
            "the network that it was made with, or another folder."
        ) from error
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in _below("optimizer.", {**tensors, **numbers}).items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            # In the parameter's own memory layout: others may differ in the last bit.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def random_states(generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """States of the generator and of PyTorch's own ones, which dropout draws from."""
    states = {"generator": generator.get_state(), "cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(
    generator: torch.Generator, device: torch.device, states: Mapping[str, Tensor]
) -> None:
    """Go back to `random_states`, as far as they are given."""
    if "generator" in states:
        generator.set_state(states["generator"])
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
