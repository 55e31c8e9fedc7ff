"""The residuals that a UNet gets in a sampling: edited by hand, captured, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from controlnet_pp.tests.host.harness import TINY, Host, apply
from torch import Tensor


def edited(
    host: Host, edit: Callable[..., list], layout: dict[str, Any] = TINY, **changes: Any
) -> tuple:
    """(positive, negative) with the host's own control, an independent reference for ours.

    Its merged residuals [shallow ... deep, middle] go through `edit(blocks, x, t, options)` at
    every call that is inside the window.
    """
    _, theirs = host.pair(layout)
    positive, negative = apply(host, theirs, layout, node="ControlNetApplyAdvanced", **changes)
    for control in {id(o["control"]): o["control"] for _, o in (*positive, *negative)}.values():
        control.get_control = _with_edit(control.get_control, edit)
    return positive, negative


def _with_edit(original: Callable[..., Any], edit: Callable[..., list]) -> Callable[..., Any]:
    def get_control(x: Tensor, t: Tensor, cond: dict, count: int, options: dict) -> Any:
        out = original(x, t, cond, count, options)
        if out is None:
            return None
        blocks = edit([*out["output"], *out["middle"]], x, t, options)
        return {"input": [], "output": blocks[:-1], "middle": blocks[-1:]}

    return get_control


def captured(host: Host, model: Any, positive: list, negative: list, **sampling: Any) -> list:
    """What the UNet got at each call of a sampling: dicts with x, control and cond_or_uncond."""
    calls = []

    def wrapper(apply_model: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        control = given["c"].get("control")
        lists = None if control is None else {key: list(control[key]) for key in control}
        calls.append(
            {"x": given["input"], "control": lists, "cond_or_uncond": given["cond_or_uncond"]}
        )
        return apply_model(given["input"], given["timestep"], **given["c"])

    watched = model.clone()
    watched.set_model_unet_function_wrapper(wrapper)
    host.sample(watched, positive, negative, **sampling)
    return calls


def evaluations(network: torch.nn.Module) -> Any:
    """A context that counts how often a network is evaluated, and with how many rows."""
    return _Evaluations(network)


class _Evaluations(list):
    def __init__(self, network: torch.nn.Module) -> None:
        self._module = network.time_embed

    def __enter__(self) -> _Evaluations:
        def note(_module: Any, inputs: tuple, _output: Any) -> None:
            self.append(inputs[0].shape[0])

        self._handle = self._module.register_forward_hook(note)
        return self

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()
