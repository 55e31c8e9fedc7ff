"""ControlNet++ of the shapes world: a ControlNet trained on by what is found in its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from ..annotators.canny import canny_magnitude, canny_strength
from ..cnpp_core.condition import Condition
from ..cnpp_core.diffusion.schedule import NoiseSchedule
from ..cnpp_core.training.denoiser import Denoiser
from ..cnpp_core.training.recipes import (
    RECIPES,
    DiffusionSettings,
    RewardSettings,
    plain,
    published_weight,
)
from ..cnpp_core.training.reward import RewardModel
from ..cnpp_core.training.session import Session
from ..cnpp_core.training.settings import TrainSettings
from ..cnpp_core.training.trainer import Objective
from .conditions import EDGES, SEGMENTS
from .model import PLUSPLUS, TRAININGS, DemoModel, load_demo, load_segmenter, save_part
from .pairs import Pairs
from .segmenter import Segmenter
from .stage import SCENES

LAYOUT = DiffusionSettings("layout")  # as the ControlNets were trained in the first place
SHIPPED_STEPS = 400
WEIGHTS = {"canny": 0.5, "seg": 2.0}  # of the reward on trajectories


@dataclass(frozen=True)
class Further:
    """How a trained ControlNet goes on: by a reward, or without one by plain steps.

    rows: pairs in a batch.
    """

    training: TrainSettings
    reward: RewardSettings | None = None
    diffusion: DiffusionSettings = LAYOUT
    rows: int = 16

    @property
    def key(self) -> str:
        """Another one for other settings; the seed apart."""
        return sha256(repr(self.of_seed(0)).encode()).hexdigest()[:12]

    def faster(self, times: int) -> Further:
        """For a trial: with that part of the steps, and of what they need beforehand."""
        steps, reward = max(self.training.steps // times, 1), self.reward
        if reward is not None:
            pool = max(reward.trajectories.pool // times, 1)
            reward = replace(reward, trajectories=replace(reward.trajectories, pool=pool))
        return replace(self, training=replace(self.training, steps=steps), reward=reward)

    def of_seed(self, seed: int) -> Further:
        """The same from another seed."""
        return replace(self, training=replace(self.training, seed=seed))

    def sampled(self, **changes: Any) -> Further:
        """The same with trajectories that are sampled otherwise."""
        if self.reward is None:
            raise ValueError("Plain steps go without trajectories.")
        trajectories = replace(self.reward.trajectories, **changes)
        return replace(self, reward=replace(self.reward, trajectories=trajectories))

    def start(
        self, demo: DemoModel, pairs: Pairs, segmenter: Segmenter
    ) -> tuple[Session, Objective]:
        """A session that trains the demo's ControlNet itself, and what it makes small."""
        denoiser = Denoiser(demo.unet, NoiseSchedule.scaled_linear(), demo.controlnet)
        session, draw = Session(denoiser, self.training), pairs.draw(self.rows)
        if self.reward is None:
            return session, plain(denoiser, draw, self.diffusion)
        model = reward_of(pairs.kind, self.reward.recipe, demo.autoencoder.decode, segmenter)
        make = RECIPES[self.reward.recipe].make
        return session, make(denoiser, draw, model, self.reward, lambda: session.averaged)


def train_plusplus(kind: str, out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """Train the ControlNet for one of CONDITIONS on, by the reward that did best.

    Longer than where it is compared with others: on scenes for choosing, the error in IoU fell by a
    tenth (edges) and a quarter (masks) after 150 steps, by a fifth and two fifths after 400.
    """
    further = on_trajectories(kind)
    further = replace(further, training=replace(further.training, steps=SHIPPED_STEPS))
    further, demo = further.faster(speed_up), load_demo(out, kind)
    session, objective = further.start(demo, Pairs.of(kind, out, scenes), load_segmenter(out))
    session.run(objective)
    save_part(f"{TRAININGS[PLUSPLUS]}_{kind}", session.trained().controlnet.state_dict(), out)


def plain_steps() -> Further:
    """More of what the ControlNets were trained with, for as long as a reward takes."""
    return Further(_settings(380))


def published(kind: str, most_t: int = 200, weight: float | None = None) -> Further:
    """As ControlNet++ was published, on the states that the ControlNet learnt from before."""
    weight = published_weight(Condition[kind.upper()]) if weight is None else weight
    reward = RewardSettings("published", weight, most_t, diffusion=LAYOUT)
    return Further(_settings(340), reward)


def on_trajectories(kind: str, diffusion: float = 1.0) -> Further:
    """By a reward on the states of the sampler; weights were chosen on scenes for choosing."""
    reward = RewardSettings(
        "on trajectories", WEIGHTS[kind], diffusion=replace(LAYOUT, weight=diffusion)
    )
    return Further(_settings(150), reward, rows=8)


def reward_of(
    kind: str, recipe: str, decode: Callable[[Tensor], Tensor], segmenter: Segmenter
) -> RewardModel:
    """What a recipe rewards for one of CONDITIONS: edges by a filter, masks by the segmenter."""
    way = RECIPES[recipe]
    if kind == "canny":
        return way.model(Condition.CANNY, decode, canny_magnitude, canny_strength, EDGES)
    return way.model(Condition.SEG, decode, segmenter.logits, measure=SEGMENTS)


def _settings(steps: int) -> TrainSettings:
    return TrainSettings(steps, learning_rate=2e-4, warmup=15, ema_decay=0.99)
