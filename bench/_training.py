"""Steps of a training, each measured in a process of its own: memory of the process, CPU time.

Networks of SD1.5's layout have random weights; the demo model has its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from ..annotators.canny import canny_magnitude
from ..annotators.softedge import HED
from ..cnpp_core.condition import Condition
from ..cnpp_core.diffusion.ddim import ddim_timesteps, sample_ddim
from ..cnpp_core.diffusion.schedule import NoiseSchedule
from ..cnpp_core.network.config import NetworkConfig
from ..cnpp_core.network.controlnet import ControlNet
from ..cnpp_core.network.unet import UNet
from ..cnpp_core.training.batch import State, TrainingBatch, noised
from ..cnpp_core.training.denoiser import Denoiser, Prediction
from ..cnpp_core.training.losses import Recipe
from ..cnpp_core.training.memory import peak_of_a_batch
from ..cnpp_core.training.modes import Mode
from ..cnpp_core.training.recipes import plain
from ..cnpp_core.training.recompute import recomputed
from ..cnpp_core.training.reward import EfficientReward, RewardModel
from ..cnpp_core.training.session import Session
from ..cnpp_core.training.settings import TrainSettings
from ..cnpp_core.training.trainer import Objective
from ..demo.model import load_demo
from ..demo.world import SIZE
from ._processes import MEGABYTE, Memory, in_child
from .steering_cost import full_decoder, quiet

DIFFUSERS = "diffusers"
LOCKED, MIDDLE, RECOMPUTED = "SD locked", "middle only", "SD locked, recomputed"
OURS = (LOCKED, MIDDLE, RECOMPUTED)
DEMO, SD15 = "demo", "SD1.5"
ONE_STEP = 0  # instead of a number of sampling steps
TOKENS = 77
RATE = 1e-5


def measured(task: str, *arguments: object) -> dict[str, Any]:
    """The numbers of `step` or `reward` with these arguments, from a fresh process."""
    return in_child(task, *map(str, arguments), of="bench._training")


def child(arguments: Sequence[str]) -> None:
    """`step WHO SIZE CHANNELS STEPS` or `reward MODEL STEPS SIZE CHANNELS TURNS`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task, name, *numbers = arguments
    tasks: dict[str, Callable[..., dict[str, Any]]] = {"step": step, "reward": reward}
    print(json.dumps(tasks[task](name, *map(int, numbers))))


def step(who: str, size: int, channels: int, steps: int) -> dict[str, Any]:
    """Steps of batch 1 at `size` pixels, in MB and seconds; of ours more, see `our_training`.

    The first step, in which the optimiser makes its moments, is not among the `seconds`.
    """
    memory = Memory()
    config = NetworkConfig(model_channels=channels)
    batch = random_batch(config, size)
    if who == DIFFUSERS:
        train, found = their_training(config, batch), {}
    else:
        train, found = our_training(who, config, batch, steps)
    memory.forget()
    times: list[float] = []
    train(steps, lambda: times.append(process_time()))
    seconds = [after - before for before, after in pairwise(times)]
    return {**memory.grown(), "seconds": seconds, **found}


Train = Callable[[int, Callable[[], None]], None]  # so many steps, saying when each is done


def our_training(
    way: str, config: NetworkConfig, batch: TrainingBatch, steps: int
) -> tuple[Train, dict[str, float]]:
    """One as anybody runs it.

    With the MB that it is `planned` to take, and those of a `batch` with its gradients alone.
    """
    unet = UNet(config).requires_grad_(False)
    controlnet = ControlNet.from_unet(unet)
    denoiser = Denoiser(unet, NoiseSchedule.scaled_linear(), controlnet)
    session = Session(
        denoiser,
        TrainSettings(steps=steps, learning_rate=RATE, ema_decay=0.0),
        modes={0: Mode.MIDDLE_ONLY if way == MIDDLE else Mode.SD_LOCKED},
        recompute=way == RECOMPUTED,
    )
    objective = plain(denoiser, lambda _: batch)
    planned = session.plan(objective, len(batch)).memory
    with recomputed(unet, controlnet) if way == RECOMPUTED else nullcontext():
        of_a_batch = peak_of_a_batch(
            lambda: objective(torch.Generator().manual_seed(0)), list(controlnet.parameters())
        )

    def train(_: int, done: Callable[[], None]) -> None:
        session.run(objective, lambda *_: done())

    return train, {"planned": planned / MEGABYTE, "batch": of_a_batch / MEGABYTE}


def their_training(config: NetworkConfig, batch: TrainingBatch) -> Train:
    """One as in diffusers' examples/controlnet/train_controlnet.py."""
    unet = UNet2DConditionModel(
        block_out_channels=tuple(m * config.model_channels for m in config.channel_mult),
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.num_heads,
    ).requires_grad_(False)
    controlnet = ControlNetModel.from_unet(unet).train()
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=RATE)

    def train(steps: int, done: Callable[[], None]) -> None:
        for _ in range(steps):
            noise = torch.randn_like(batch.x0)
            t = torch.randint(0, 1000, (len(batch),))
            noisy = scheduler.add_noise(batch.x0, noise, t)
            down, middle = controlnet(noisy, t, batch.context, batch.hint, return_dict=False)
            predicted = unet(
                noisy,
                t,
                batch.context,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]
            F.mse_loss(predicted.float(), noise.float()).backward()
            nn.utils.clip_grad_norm_(controlnet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done()

    return train


def random_batch(config: NetworkConfig, size: int) -> TrainingBatch:
    """One picture with prompt and hint."""
    side = size // 8
    return TrainingBatch(
        x0=torch.randn(1, config.in_channels, side, side),
        context=torch.randn(1, TOKENS, config.context_dim),
        hint=torch.rand(1, config.hint_channels, size, size),
    )


@dataclass(frozen=True, eq=False)
class Rewarded:
    """What a reward is measured on. others: the networks beside the trained one."""

    denoiser: Denoiser
    model: RewardModel
    batch: TrainingBatch
    others: Sequence[nn.Module]


def reward(model: str, sampling: int, size: int, channels: int, turns: int) -> dict[str, Any]:
    """The gradient of a reward for one picture, through so many sampling steps or ONE_STEP.

    planned: MB of a training with it; working: what of them goes by the steps; seconds: of the
    gradient alone, without AdamW.
    """
    on = demo_rewarded() if model == DEMO else sd15_rewarded(size, channels)
    session = Session(on.denoiser, TrainSettings(steps=1, ema_decay=0.0))
    objective = one_step(on) if sampling == ONE_STEP else through_sampling(on, sampling)
    plan = session.plan(objective, 1, others=on.others)
    seconds = []
    for _ in range(turns):
        began = process_time()
        objective(torch.Generator().manual_seed(0)).backward()
        seconds.append(process_time() - began)
    return {
        "planned": plan.memory / MEGABYTE,
        "working": plan.working / MEGABYTE,
        "seconds": seconds,
    }


def one_step(on: Rewarded) -> Objective:
    """The reward of ControlNet++: on the x0 that is predicted in one step."""
    states = noised(lambda _: on.batch, on.denoiser.schedule)
    return Recipe(on.denoiser, states, {"reward": (1.0, EfficientReward(on.model, most_t=999))})


def through_sampling(on: Rewarded, steps: int) -> Objective:
    """The reward on what DDIM draws in so many steps, with the gradient through all of them."""
    timesteps = ddim_timesteps(steps)

    def loss(generator: torch.Generator) -> Tensor:
        said: list[Prediction] = []

        def noise_of(x_t: Tensor, t: Tensor) -> Tensor:
            said.append(on.denoiser.predict(State(on.batch, x_t, t)))
            return said[-1].noise

        noise = torch.randn(on.batch.x0.shape, generator=generator)
        sample_ddim(noise_of, noise, on.denoiser.schedule, timesteps)
        every = torch.ones(len(on.batch), dtype=torch.bool)
        return on.model.losses(said[-1], every).mean()  # the last one's x0 is the sampler's

    return loss


def demo_rewarded() -> Rewarded:
    """The demo model at its own size, Canny's magnitude as the reward."""
    demo = load_demo()
    batch = random_batch(demo.unet.config, SIZE)
    wanted = canny_magnitude(torch.rand(1, 3, SIZE, SIZE))
    return Rewarded(
        Denoiser(demo.unet, NoiseSchedule.scaled_linear(), demo.controlnet),
        RewardModel.of(Condition.CANNY, demo.autoencoder.decode, canny_magnitude),
        replace(batch, wanted=wanted),
        [demo.autoencoder],
    )


def sd15_rewarded(size: int, channels: int) -> Rewarded:
    """SD1.5's UNet, autoencoder and ControlNet, HED as the reward."""
    config = NetworkConfig(model_channels=channels)
    unet, hed = UNet(config), quiet(HED())
    decoder: Any = full_decoder().autoencoder
    return Rewarded(
        Denoiser(unet, NoiseSchedule.scaled_linear(), ControlNet.from_unet(unet)),
        RewardModel.of(Condition.SOFTEDGE, lambda x: decoder.decode(x).sample, hed),
        replace(random_batch(config, size), wanted=torch.rand(1, 1, size, size)),
        [decoder.decoder, hed],
    )
