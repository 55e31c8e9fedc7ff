"""Everything that a training consists of, as tensors and numbers by name, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Stateful(Protocol):
    """What remembers more than its settings, such as a pool of states: tensors by name.

    Not asked of networks, whose weights are the trainer's.
    """

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Any: ...


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
        module.load_state_dict(below("module.", tensors))
        if averaged is not module:
            # A training that goes on with an average begins it with the weights it has.
            weights = below("averaged.", tensors) or below("module.", tensors)
            averaged.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"The checkpoint is of another network ({' '.join(str(error).split())[:300]}): choose "
            "the network that it was made with, or another folder."
        ) from error
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in below("optimizer.", {**tensors, **numbers}).items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            # In the parameter's own memory layout: others may differ in the last bit.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def own_state(
    generator: torch.Generator, device: torch.device, objective: object
) -> dict[str, Tensor]:
    """What each process has of its own, the same between two steps: where its random numbers are.

    Those of the generator and PyTorch's own ones, which dropout draws from; and what the objective
    remembers, if it is `Stateful`.
    """
    own = {"random.generator": generator.get_state(), "random.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["random.cuda"] = torch.cuda.get_rng_state(device)
    return {**own, **named("objective.", state_of(objective))}


def restore_own(
    generator: torch.Generator, device: torch.device, objective: object, own: Mapping[str, Tensor]
) -> None:
    """Go back to `own_state`, as far as it is given."""
    if "random.generator" in own:
        generator.set_state(own["random.generator"])
    if "random.cpu" in own:
        torch.set_rng_state(own["random.cpu"])
    if "random.cuda" in own and device.type == "cuda":
        torch.cuda.set_rng_state(own["random.cuda"], device)
    load_state(objective, below("objective.", own))


def state_of(thing: object) -> dict[str, Tensor]:
    """What it remembers; nothing if it is not `Stateful`."""
    stateful = _stateful(thing)
    return stateful.state_dict() if stateful else {}


def load_state(thing: object, state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` gave; without any it stays as it is."""
    stateful = _stateful(thing)
    if state and stateful:
        stateful.load_state_dict(state)


def named(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """With the prefix before each name."""
    return {f"{prefix}{name}": value for name, value in values.items()}


def below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those whose names have the prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _stateful(thing: object) -> Stateful | None:
    is_network = isinstance(thing, nn.Module)
    return thing if isinstance(thing, Stateful) and not is_network else None
