"""Consistency Guidance in the host: corrects x0 by what its picture would be.

Nothing is kept between steps but the settings, so there is no graph to leak and nothing to undo
after an interrupt.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from ....cnpp_core.consistency.resize import same_aspect
from ....cnpp_core.consistency.steering.guidance import GuidanceSettings, corrected
from ....cnpp_core.consistency.steering.reward import Reward
from ..annotate.annotator import NodeAnnotator
from ..annotate.networks import VALUES_PER_PIXEL
from ..memory import PartsThatFit, rows_that_fit
from .sampling import Moment, steered
from .x0 import X0Decoder, frozen, sound_in_half

log = logging.getLogger(__name__)

NODE = "Consistency Guidance"
KEY = "cnpp_guidance"
VALUES_WITHOUT_WEIGHTS = 64  # per pixel in the graph of canny
GRAPH_OF_NETWORK = 2  # what an annotator's graph holds, beside what it takes without one


@dataclass(frozen=True, eq=False)
class ConsistencyGuidance:
    """A reward, a decoder that shows it pictures, and how x0 follows it.

    size: height and width of the condition, which the picture must have the shape of.
    """

    decoder: X0Decoder
    annotator: NodeAnnotator
    reward: Reward
    settings: GuidanceSettings
    size: tuple[int, int]

    def __post_init__(self) -> None:
        # Made while a node runs, these can take no part in a graph, not even as constants.
        reward = self.reward
        with torch.inference_mode(False):
            mask = None if reward.mask is None else reward.mask.clone()
            object.__setattr__(
                self, "reward", replace(reward, wanted=reward.wanted.clone(), mask=mask)
            )

    def attached_to(self, model: Any) -> Any:
        """A copy of the host's ModelPatcher that is guided."""
        self.decoder.require_latents_of(model)
        # Several guidances in a row each have models of their own to load.
        key = f"{KEY}_{uuid4().hex}"
        twin = steered(model, key, lambda _guider: GuidedRun(self), self.settings.window)
        self.load_with(twin, key)
        return twin

    def load_with(self, twin: Any, key: str) -> None:
        """Have everything loaded together with the model, and shapes checked before it samples."""
        self.decoder.loaded_with(twin, key, self.annotator.patchers, self.room)

    def room(self, shape: Sequence[int]) -> int:
        """Bytes that one picture takes, of latents of this shape; ValueError if they don't fit."""
        height, width = self._picture_size(shape)
        if not same_aspect(self.size, (height, width)):
            raise ValueError(
                f"{NODE}: the condition is {self.size[1]}x{self.size[0]} pixels and the picture "
                f"will be {width}x{height} (width x height): not the same shape, so they can't be "
                "laid over each other. Crop or pad the condition to the shape of the latent first "
                f"(Upscale Image to {width}x{height} with crop 'center' does what sampling does "
                "with a control image), or change the latent."
            )
        for rows, what in ((self.reward.wanted, "condition"), (self.reward.mask, "mask")):
            if rows is not None and len(rows) not in (1, shape[0]):
                raise ValueError(
                    f"{NODE}: there are {len(rows)} {what}s for {shape[0]} picture(s); connect one "
                    f"{what} for all pictures, or one for each."
                )
        return self.bytes_per_picture(shape)

    def bytes_per_picture(self, shape: Sequence[int]) -> int:
        """What decoder and annotator take with their graphs, by rule of thumb."""
        height, width = self._picture_size(shape)
        values = VALUES_WITHOUT_WEIGHTS * 4
        if self.annotator.patchers:
            on_cpu = self.annotator.patchers[0].load_device.type == "cpu"
            values = GRAPH_OF_NETWORK * VALUES_PER_PIXEL * (4 if on_cpu else 2)
        return self.decoder.graph_bytes((1, *shape[1:])) + height * width * values

    def _picture_size(self, shape: Sequence[int]) -> tuple[int, int]:
        if len(shape) != 4:
            raise ValueError(
                f"{NODE}: the latent has shape {tuple(shape)}; only pictures (batch, channels, "
                "height, width) can be guided, no videos or sound. Take this node out."
            )
        scale = int(self.decoder.vae.spacial_compression_decode())
        return shape[-2] * scale, shape[-1] * scale


class GuidedRun:
    """One sampling under guidance."""

    def __init__(self, guidance: ConsistencyGuidance) -> None:
        self.guidance = guidance
        self._parts: PartsThatFit | None = None
        self._warned = False

    def look(self, moment: Moment) -> Tensor:
        """The x0 (B, C, H, W) of the moment, corrected if this step is one of those that are."""
        if not self.acts(moment.step, moment.percent):
            return moment.x0
        return self.corrected(moment)

    def acts(self, step: int, percent: float) -> bool:
        """Whether this step is corrected."""
        return self.guidance.settings.window.acts(percent, step)

    def corrected(self, moment: Moment) -> Tensor:
        """x0 (B, C, H, W) corrected, as many pictures at a time as there is memory for."""
        x0 = moment.x0
        if self._parts is None:
            room = self.guidance.bytes_per_picture(x0.shape)
            device = self.guidance.decoder.patcher.load_device
            self._parts = PartsThatFit(rows_that_fit(room, device), NODE)
        step = partial(self._step, moment)
        too_large = partial(self._too_large, x0)
        return torch.cat(list(self._parts.of(len(x0), step, too_large)))

    def _step(self, moment: Moment, start: int, stop: int) -> Tensor:
        guidance, model = self.guidance, moment.model
        decoder, annotator = guidance.decoder, guidance.annotator
        networks = [patcher.model for patcher in annotator.patchers]
        with (
            torch.inference_mode(False),
            decoder.gradients_through(model),
            frozen(*networks),
        ):
            kept = None if moment.kept is None else moment.kept.rows(start, stop)
            reward = replace(
                guidance.reward.rows(start, stop), annotate=sound_in_half(annotator.guidance_map)
            )

            def losses(x0: Tensor) -> Tensor:
                shown = x0 if kept is None else kept.over(x0)
                return reward.losses(decoder.differentiable(shown, model)).to(x0.device)

            found = corrected(moment.x0[start:stop], losses, guidance.settings)
        if not (self._warned or found.losses.isfinite().all()):
            self._warned = True
            log.warning(
                "%s: the loss of a picture is NaN or infinite at step %d, so it is not corrected. "
                "A VAE in half precision often fails like that: run it in fp32 (--fp32-vae).",
                NODE,
                moment.step + 1,
            )
        return found.x0

    def _too_large(self, x0: Tensor) -> str:
        needed = self.guidance.bytes_per_picture(x0.shape) / 2**30
        height, width = self.guidance._picture_size(x0.shape)
        return (
            f"{NODE}: out of memory while the gradient of one {width}x{height} picture went "
            f"through the VAE and the annotator, which takes about {needed:.1f} GiB beside the "
            "models. It was tried one picture at a time. What helps: a tiny decoder (TAESD, in "
            "models/vae_approx, by Load VAE) as vae, which takes a tenth; a smaller picture; "
            "strength 0, or this node taken out. A larger `every` saves time, but no memory."
        )
