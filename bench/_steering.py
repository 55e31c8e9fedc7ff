"""The ways to draw pictures for held-out conditions on the demo model, and how they are judged.

The annotator that guidance, feedback and selection go by is the segmenter of the shapes world. The
judge does not know it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from ..annotators.canny import canny_strength
from ..cnpp_core.condition import Condition
from ..cnpp_core.consistency.agreement.lines import EdgeMeasure
from ..cnpp_core.consistency.check import check_consistency
from ..cnpp_core.consistency.steering.feedback import Feedback, FeedbackSettings
from ..cnpp_core.consistency.steering.guidance import GuidanceSettings
from ..cnpp_core.consistency.steering.reward import Reward
from ..cnpp_core.diffusion.schedule import LATENT_SCALE, NoiseSchedule
from ..demo.judge import Judge, Judgement
from ..demo.model import load_demo, load_segmenter
from ..demo.pipeline import SEGMENTS, FeedbackLoop, Guidance, generate
from ..demo.segmenter import Segmenter, colours_of
from ..demo.text import tokenize
from ..demo.world import HELD_OUT_SEED, load_batch, mask_iou

CHUNK = 16  # pictures per batch
STEPS = 20
NEXT_CANDIDATE = 100_000  # between the seeds of two candidates


@dataclass(frozen=True)
class Way:
    """One way to draw a picture for a condition. candidates: from how many the best is taken.

    by_edges: guidance follows the Canny edges that the ControlNet gets, not the segmenter.
    """

    name: str
    controlled: bool = True
    guidance: GuidanceSettings | None = None
    feedback: FeedbackSettings | None = None
    candidates: int = 1
    strength: float = 1.0
    by_edges: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the pictures are worth, and how long they took."""

    judged: Judgement
    seconds: float = 0.0

    def removed(self, before: Outcome, ceiling: Outcome) -> float:
        """Share of the error in IoU that was left ``before``, up to what the decoder can draw."""
        start = before.judged.iou.mean()
        return float((self.judged.iou.mean() - start) / (ceiling.judged.iou.mean() - start))

    def as_dict(self) -> dict[str, float]:
        """Means, and the standard error of the IoU."""
        iou = self.judged.iou
        return {
            "foreground_iou": float(iou.mean()),
            "standard_error": float(iou.std() / math.sqrt(len(iou))),
            "canny_f1": float(self.judged.f1.mean()),
            "colour_error": float(self.judged.colour_error.mean()),
        }


class Experiment:
    """The demo model, its segmenter, and the held-out conditions."""

    def __init__(self, count: int, segmenter: Segmenter | None = None) -> None:
        self.demo = load_demo()
        self.segmenter = load_segmenter() if segmenter is None else segmenter
        self.batch = load_batch(HELD_OUT_SEED, range(count))
        self.judge = Judge(self.batch)
        self.hints = self.judge.hints
        self.wanted = colours_of(self.batch.masks[:, 0])

    def outcome(self, way: Way) -> Outcome:
        """Pictures for all conditions, judged."""
        began = perf_counter()
        parts = [self.best(way, start) for start in range(0, len(self.hints), CHUNK)]
        seconds = perf_counter() - began
        return Outcome(self.judge.judge(torch.cat(parts)), seconds)

    def best(self, way: Way, start: int) -> Tensor:
        """The best candidate (B, 3, S, S) of each condition of the batch beginning at ``start``."""
        part = slice(start, start + CHUNK)
        drawn = [self.draw(way, part, start + NEXT_CANDIDATE * i) for i in range(way.candidates)]
        if len(drawn) == 1:
            return drawn[0]
        scores = torch.tensor([self.scores(images, part) for images in drawn])
        rows = torch.arange(len(drawn[0]))
        return torch.stack(drawn)[scores.argmax(0), rows]

    def draw(self, way: Way, part: slice, seed: int) -> Tensor:
        """One picture for each condition of a part: (B, 3, S, S) in 0..1."""
        guidance = loop = None
        if way.guidance is not None and way.by_edges:
            edges = Reward.of(
                canny_strength, Condition.CANNY.value.guidance, EdgeMeasure(), self.hints[part]
            )
            guidance = Guidance(way.guidance, edges.losses)
        elif way.guidance is not None:
            guidance = Guidance.by(self.segmenter, self.wanted[part], way.guidance)
        if way.feedback is not None:
            loop = FeedbackLoop(Feedback(way.feedback), lambda images: self.scores(images, part))
        return generate(
            self.demo,
            list(self.batch.captions[part]),
            seed=seed,
            steps=STEPS,
            hints=self.hints[part].expand(-1, 3, -1, -1) if way.controlled else None,
            strength=way.strength,
            guidance=guidance,
            loop=loop,
        )

    def scores(self, images: Tensor, part: slice) -> tuple[float, ...]:
        """mIoU of the segmenter's classes in pictures (B, 3, S, S) with the wanted ones."""
        annotate = self.segmenter.annotate
        return check_consistency(images, self.wanted[part], annotate, SEGMENTS).per_image

    def ceiling(self) -> Outcome:
        """The pictures themselves through the autoencoder: more can't be reached."""
        return Outcome(self.judge.ceiling(self.demo.autoencoder))

    @torch.no_grad()
    def reward_quality(self) -> dict[str, float]:
        """IoU of the segmenter's mask with the true one: on pictures, and on x0 half way."""
        coder, schedule = self.demo.autoencoder, NoiseSchedule.scaled_linear()
        latents = coder.encode(self.batch.images * 2 - 1) * LATENT_SCALE
        t = torch.full((len(latents),), 500)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        half_way = self.draw_x0(schedule, schedule.q_sample(latents, t, noise), t)
        pictures = {"finished": self.batch.images, "x0_at_500": half_way}
        return {name: float(self._found(images).mean()) for name, images in pictures.items()}

    def draw_x0(self, schedule: NoiseSchedule, x: Tensor, t: Tensor) -> Tensor:
        """The one-step x0 of latents (B, 4, H, W) at t (B,), decoded: (B, 3, 8H, 8W) in 0..1."""
        tokens = torch.tensor([tokenize(caption) for caption in self.batch.captions])
        parts = []
        for rows in torch.arange(len(x)).split(CHUNK):
            context = self.demo.text_encoder(tokens[rows])
            hints = self.hints[rows].expand(-1, 3, -1, -1)
            residuals = self.demo.controlnet(x[rows], hints, t[rows], context)
            eps = self.demo.unet(x[rows], t[rows], context, residuals=residuals)
            x0 = schedule.predict_x0(x[rows], t[rows], eps)
            parts.append(self.demo.autoencoder.decode(x0 / LATENT_SCALE) / 2 + 0.5)
        return torch.cat(parts).clamp(0, 1)

    def _found(self, images: Tensor) -> Tensor:
        mask = self.segmenter.logits(images).argmax(1, keepdim=True) == 1
        return mask_iou(mask, self.batch.masks)
