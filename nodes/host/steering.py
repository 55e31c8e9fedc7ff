"""How a node looks at the picture while the host samples it, and may change it.

A wrapper around the sampling makes a run of its own for it, and a post-CFG function shows that run
the x0 of each step. Nothing outlives the sampling, whichever way it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...cnpp_core.control.timing import Timing


@dataclass(frozen=True, eq=False)
class Moment:
    """One step: its number from 0, percent of the sampling, and the x0 that the model predicts.

    x0 (B, C, H, W) in the model's own units, with guidance applied. model: the host's BaseModel.
    options: the host's model options of this step.
    """

    step: int
    percent: float
    x0: Tensor
    model: Any
    options: dict[str, Any]


class SteeredRun(Protocol):
    """One sampling under the eyes of a node."""

    def look(self, moment: Moment) -> Tensor:
        """The x0 to go on with, the one of the moment or another."""
        ...


# Begins a run; gets the host's guider, whose model_options belong to this sampling alone.
Begin = Callable[[Any], SteeredRun]


def steered(model: Any, key: str, begin: Begin) -> Any:
    """A copy of the host's ModelPatcher whose samplings `begin` a run that sees every step.

    key: names the kind of node, for the host's list of wrappers.
    """
    steering = _Steering(begin)
    twin = model.clone()
    twin.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, steering.sampling)
    twin.set_model_sampler_post_cfg_function(steering.post_cfg)
    return twin


class _Steering:
    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self._run: tuple[SteeredRun, Timing] | None = None

    def sampling(self, sample: Any, *args: Any, **kwargs: Any) -> Any:
        """Around one sampling; a sampling inside of another one has a run of its own."""
        guider, before = sample.class_obj, self._run
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        self._run = (self.begin(guider), Timing(model_sampling.percent_to_sigma))
        try:
            return sample(*args, **kwargs)
        finally:
            self._run = before

    def post_cfg(self, args: dict[str, Any]) -> Tensor:
        """What the host calls with each x0."""
        x0: Tensor = args["denoised"]
        if self._run is None:  # some node calls the model outside of a sampling
            return x0
        run, timing = self._run
        sigma = float(torch.as_tensor(args["sigma"]).flatten()[0])
        options = args["model_options"]
        planned = options.get("transformer_options", {}).get("sample_sigmas")
        step = 0 if planned is None else timing.step(sigma, planned.tolist())
        return run.look(Moment(step, timing.percent(sigma), x0, args["model"], options))
