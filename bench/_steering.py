"""The ways to draw pictures for conditions on the demo model, and how they are judged.

The judge knows the true scenes; what steers knows the condition images that it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..cnpp_core.consistency.steering.feedback import Feedback, FeedbackSettings
from ..cnpp_core.consistency.steering.guidance import GuidanceSettings
from ..cnpp_core.control.shape import ControlShape
from ..cnpp_core.diffusion.schedule import LATENT_SCALE, NoiseSchedule
from ..demo.conditions import Follower, condition_of
from ..demo.judge import Judge, Judgement
from ..demo.model import load_demo, load_segmenter
from ..demo.pipeline import Steering, generate
from ..demo.segmenter import Segmenter
from ..demo.text import tokenize
from ..demo.world import load_batch, mask_iou
from ._intervals import Bootstrap, Interval, interval

CHUNK = 16  # pictures per batch
STEPS = 20
NEXT_CANDIDATE = 100_000  # between the seeds of two candidates
NEXT_SEED = 10_000_000  # between two repetitions of everything


@dataclass(frozen=True)
class Way:
    """One way to draw a picture for a condition.

    candidates: from how many the best is taken. steps: None for those of the experiment.
    """

    name: str
    controlled: bool = True
    strength: float = 1.0
    shape: ControlShape = field(default_factory=ControlShape)
    guidance: GuidanceSettings | None = None
    feedback: FeedbackSettings | None = None
    candidates: int = 1
    sampler: str = "ddim"
    cfg: float = 3.0
    steps: int | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the pictures of a way are worth, (seeds, scenes) each, as `Judgement` says it."""

    iou: Tensor
    f1: Tensor
    colour_error: Tensor
    seconds: float = 0.0

    @classmethod
    def of(cls, judged: list[Judgement], seconds: float = 0.0) -> Outcome:
        """One judgement for each seed."""
        return cls(
            torch.stack([part.iou for part in judged]),
            torch.stack([part.f1 for part in judged]),
            torch.stack([part.colour_error for part in judged]),
            seconds,
        )


@dataclass(eq=False)
class Experiment:
    """Scenes of the shapes world, a ControlNet for one condition, and what steering goes by.

    scenes: numbers in the world ``world``. controlled_by, steered_by: members of CONDITIONS; the
    two are the same where no way is to know more than another one. steps: of DDIM.
    """

    world: int
    scenes: range
    controlled_by: str = "canny"
    steered_by: str = "canny"
    segmenter: Segmenter = field(default_factory=load_segmenter)
    steps: int = STEPS

    def __post_init__(self) -> None:
        self.demo = load_demo(condition=self.controlled_by)
        self.batch = load_batch(self.world, self.scenes)
        self.judge = Judge(self.batch)
        self.hints = condition_of(self.controlled_by, self.batch.images, self.batch.masks)
        self.wanted = condition_of(self.steered_by, self.batch.images, self.batch.masks)

    def outcome(self, way: Way, seeds: int = 1) -> Outcome:
        """Pictures for all scenes from the noise of so many seeds, judged."""
        began = perf_counter()
        judged = [self.judge.judge(self.draw(way, seed)) for seed in range(seeds)]
        return Outcome.of(judged, perf_counter() - began)

    def draw(self, way: Way, seed: int = 0) -> Tensor:
        """The best candidate of each scene, (B, 3, S, S) in 0..1."""
        starts = range(0, len(self.hints), CHUNK)
        return torch.cat([self.best(way, start, seed) for start in starts])

    def best(self, way: Way, start: int, seed: int = 0) -> Tensor:
        """The best candidates for the scenes of the batch that begins at ``start``."""
        part, first = slice(start, start + CHUNK), start + NEXT_SEED * seed
        follower = self.follower(part)
        drawn = [
            self.candidate(way, part, first + NEXT_CANDIDATE * i, follower)
            for i in range(way.candidates)
        ]
        if len(drawn) == 1:
            return drawn[0]
        scores = torch.tensor([follower.scores(images) for images in drawn])
        return torch.stack(drawn)[scores.argmax(0), torch.arange(len(drawn[0]))]

    def follower(self, part: slice) -> Follower:
        """What steering and selection go by, for a part of the scenes."""
        if self.steered_by == "canny":
            return Follower.by_edges(self.wanted[part])
        return Follower.by_segments(self.wanted[part], self.segmenter)

    def candidate(self, way: Way, part: slice, seed: int, follower: Follower) -> Tensor:
        """One picture for each scene of a part."""
        feedback = Feedback(way.feedback) if way.feedback else None
        steered = way.guidance is not None or feedback is not None
        return generate(
            self.demo,
            list(self.batch.captions[part]),
            seed=seed,
            steps=way.steps or self.steps,
            cfg=way.cfg,
            sampler=way.sampler,
            hints=self.hints[part] if way.controlled else None,
            shape=way.shape,
            strength=way.strength,
            steering=Steering(follower, way.guidance, feedback) if steered else None,
        )

    def ceiling(self) -> Outcome:
        """The scenes themselves through the autoencoder: more can't be reached."""
        return Outcome.of([self.judge.ceiling(self.demo.autoencoder)])

    @torch.no_grad()
    def segmenter_quality(self) -> dict[str, float]:
        """IoU of the segmenter's mask with the true one: on pictures, and on x0 half way."""
        coder, schedule = self.demo.autoencoder, NoiseSchedule.scaled_linear()
        latents = coder.encode(self.batch.images * 2 - 1) * LATENT_SCALE
        t = torch.full((len(latents),), 500)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        half_way = self._x0(schedule, schedule.q_sample(latents, t, noise), t)
        pictures = {"finished": self.batch.images, "x0_at_500": half_way}
        return {name: float(self._found(images).mean()) for name, images in pictures.items()}

    def _x0(self, schedule: NoiseSchedule, x: Tensor, t: Tensor) -> Tensor:
        """The one-step x0 of latents (B, 4, H, W) at t (B,), decoded: (B, 3, 8H, 8W) in 0..1."""
        tokens = torch.tensor([tokenize(caption) for caption in self.batch.captions])
        parts = []
        for rows in torch.arange(len(x)).split(CHUNK):
            context = self.demo.text_encoder(tokens[rows])
            residuals = self.demo.controlnet(x[rows], self.hints[rows], t[rows], context)
            eps = self.demo.unet(x[rows], t[rows], context, residuals=residuals)
            x0 = schedule.predict_x0(x[rows], t[rows], eps)
            parts.append(self.demo.autoencoder.decode(x0 / LATENT_SCALE) / 2 + 0.5)
        return torch.cat(parts).clamp(0, 1)

    def _found(self, images: Tensor) -> Tensor:
        mask = self.segmenter.logits(images).argmax(1, keepdim=True) == 1
        return mask_iou(mask, self.batch.masks)


def error_removed(
    bootstrap: Bootstrap, outcome: Outcome, before: Outcome, ceiling: Outcome
) -> Interval:
    """Share of the error in IoU that was left ``before``, up to what the decoder can draw."""
    start, best = bootstrap.means(before.iou), bootstrap.means(ceiling.iou)
    return interval((bootstrap.means(outcome.iou) - start) / (best - start))


def row_of(name: str, bootstrap: Bootstrap, outcome: Outcome) -> dict[str, Any]:
    """Print and give a row of a table: means, each with its interval."""
    figures = {
        "foreground_iou": interval(bootstrap.means(outcome.iou)),
        "canny_f1": interval(bootstrap.means(outcome.f1)),
        "colour_error": interval(bootstrap.means(outcome.colour_error)),
    }
    iou, f1, colours = figures.values()
    print(
        f"  {name:<18}{f'{iou:.4f}':<27}{f'{f1:.4f}':<27}{f'{colours:.2f}':<22}"
        f"{outcome.seconds:>6.0f}",
        flush=True,
    )
    return {key: figure.as_dict() for key, figure in figures.items()}
