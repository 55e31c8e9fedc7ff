"""How a node looks at the picture while the host samples it, and may change it.

A wrapper around the sampling makes a run of its own for it, and a post-CFG function shows that run
the x0 of each step. Nothing outlives the sampling, whichever way it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....cnpp_core.consistency.steering.window import SteeringWindow
from ....cnpp_core.control.timing import Timing


@dataclass(frozen=True, eq=False)
class Moment:
    """One step: its number from 0, percent of the sampling, and the x0 that the model predicts.

    x0 (B, C, H, W) in the model's own units, with guidance applied. model: the host's BaseModel.
    options: the host's model options of this step. kept: what a latent noise mask leaves alone.
    """

    step: int
    percent: float
    x0: Tensor
    model: Any
    options: dict[str, Any]
    kept: Kept | None = None

    def shown(self, x0: Tensor) -> Tensor:
        """x0 (B, C, H, W) as it will be seen: with what a latent noise mask keeps laid over it."""
        return x0 if self.kept is None else self.kept.over(x0)


@dataclass(frozen=True, eq=False)
class Kept:
    """Latents that a noise mask protects. mask (B, C, H, W): 1 where something new is made."""

    original: Tensor  # in the model's own units
    mask: Tensor

    def over(self, x0: Tensor) -> Tensor:
        """x0 (B, C, H, W) where the mask is 1, the original where it is 0; differentiable."""
        return x0 * self.mask.to(x0) + (self.original * (1 - self.mask)).to(x0)

    def rows(self, start: int, stop: int) -> Kept:
        """For some pictures of the batch, fit for a graph."""
        with torch.inference_mode(False):
            return Kept(
                *(
                    t.clone() if len(t) == 1 else t[start:stop].clone()
                    for t in (self.original, self.mask)
                )
            )


class SteeredRun(Protocol):
    """One sampling under the eyes of a node."""

    def look(self, moment: Moment) -> Tensor:
        """The x0 (B, C, H, W) to go on with, the one of the moment or another."""
        ...


ALWAYS = SteeringWindow()
# Begins a run; gets the host's guider, whose model_options belong to this sampling alone.
Begin = Callable[[Any], SteeredRun]


def steered(model: Any, key: str, begin: Begin, window: SteeringWindow = ALWAYS) -> Any:
    """A copy of the host's ModelPatcher whose samplings `begin` a run that sees every step.

    key: names the kind of node, for the host's list of wrappers. window: when it acts, whose ends
    the percents of the moments keep to exactly.
    """
    steering = _Steering(begin, window)
    twin = model.clone()
    twin.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, steering.sampling)
    # A function, because older hosts copy a method together with its object when a model is copied.
    twin.set_model_sampler_post_cfg_function(lambda args: steering.post_cfg(args))
    return twin


class ThroughRun(SteeredRun, Protocol):
    """One sampling under the eyes of a node that differentiates the model's own call."""

    def acts(self, step: int, percent: float) -> bool:
        """Whether this step is to be asked."""
        ...

    def look_through(self, x: Tensor, moment_of: Callable[[Tensor], Moment]) -> Tensor:
        """x_t (B, C, H, W) to the x0 to go on with.

        moment_of: asks the model what it makes of an x_t, with a graph if x_t has one.
        """
        ...


def steered_through(
    model: Any, key: str, begin: Callable[[Any], ThroughRun], window: SteeringWindow = ALWAYS
) -> Any:
    """Like `steered`, for runs that stand around the model's call instead of behind it."""
    steering = _Steering(begin, window)
    twin = model.clone()
    twin.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, steering.sampling)
    twin.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, key, steering.predict)
    return twin


class _Steering:
    def __init__(self, begin: Begin, window: SteeringWindow) -> None:
        self.begin = begin
        self._marks = (window.start, window.end)
        self._run: tuple[SteeredRun, Timing, _Protected] | None = None

    def sampling(self, sample: Any, *args: Any, **kwargs: Any) -> Any:
        """Around one sampling; a sampling inside of another one has a run of its own."""
        guider, before = sample.class_obj, self._run
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        timing = Timing(model_sampling.percent_to_sigma, self._marks)
        self._run = (self.begin(guider), timing, _Protected.of(args))
        try:
            return sample(*args, **kwargs)
        finally:
            self._run = before

    def post_cfg(self, args: dict[str, Any]) -> Tensor:
        """What the host calls with each x0."""
        x0: Tensor = args["denoised"]
        if self._run is None:  # some node calls the model outside of a sampling
            return x0
        run = self._run[0]
        return run.look(self._moment(x0, args["sigma"], args["model"], args["model_options"]))

    def predict(
        self,
        predict: Any,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Around the host's prediction of x0."""
        options = {} if model_options is None else model_options
        model = predict.class_obj.inner_model
        if self._run is None:
            return predict(x, timestep, options, seed)
        run: Any = self._run[0]
        now = self._moment(x, timestep, model, options)
        if not run.acts(now.step, now.percent):
            return predict(x, timestep, options, seed)
        with torch.inference_mode(False):
            sigma = timestep.clone()  # fit for a graph

        def moment_of(point: Tensor) -> Moment:
            return replace(now, x0=predict(point, sigma, _with_own_skips(options), seed))

        return run.look_through(x, moment_of)

    def _moment(self, x0: Tensor, sigmas: Any, model: Any, options: dict[str, Any]) -> Moment:
        assert self._run is not None
        _, timing, protected = self._run
        sigma = float(torch.as_tensor(sigmas).flatten()[0])
        planned = options.get("transformer_options", {}).get("sample_sigmas")
        step = 0 if planned is None else timing.step(sigma, planned.tolist())
        kept = protected.at(sigmas, x0, model, options)
        return Moment(step, timing.percent(sigma), x0, model, options, kept)


def _with_own_skips(options: dict[str, Any]) -> dict[str, Any]:
    """Model options under which the UNet's skip connections are no part of what a graph keeps.

    The host adds control to them in place, long after the encoder has gone on with them.
    """
    transformer = dict(options.get("transformer_options", {}))
    patches = dict(transformer.get("patches", {}))
    name = "input_block_patch_after_skip"
    patches[name] = [*patches.get(name, []), lambda h, _options: h.clone()]
    return {**options, "transformer_options": {**transformer, "patches": patches}}


class _Protected:
    """The latent and the noise mask of one sampling, as the host gets them."""

    def __init__(self, latent: Tensor, mask: Tensor | None) -> None:
        self._latent, self._mask = latent, mask
        self._original: Tensor | None = None

    @classmethod
    def of(cls, args: Sequence[Any]) -> _Protected:
        """From what the host calls a sampling with: noise, latent, sampler, sigmas, mask ..."""
        return cls(args[1], args[4] if len(args) > 4 else None)

    def at(self, sigma: Tensor, x0: Tensor, model: Any, options: dict[str, Any]) -> Kept | None:
        """What is kept at this step: a node (Differential Diffusion) may change the mask."""
        mask = self._mask
        if mask is None:
            return None
        if "denoise_mask_function" in options:
            planned = options.get("transformer_options", {}).get("sample_sigmas")
            extra = {"model": _Inner(model), "sigmas": planned}
            mask = options["denoise_mask_function"](sigma, mask, extra_options=extra)
        original = self._original
        if original is None:
            latent = self._latent.to(x0.device, torch.float32)
            # As the host does: an empty latent is not shifted.
            original = model.process_latent_in(latent) if latent.any() else latent
            self._original = original
        return Kept(original, mask.to(x0.device))


class _Inner:
    """Where such a node looks for the model."""

    def __init__(self, model: Any) -> None:
        self.inner_model = model
