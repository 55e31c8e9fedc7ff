"""A reward through trained networks: HED in what TAESD decodes, on latents of photographs."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.training.batch import State, TrainingBatch
from controlnet_pp.cnpp_core.training.losses import Recipe
from controlnet_pp.cnpp_core.training.modes import Mode, set_mode, trained_parts
from controlnet_pp.cnpp_core.training.reward import EfficientReward, RewardModel
from controlnet_pp.cnpp_core.training.settings import TrainSettings
from controlnet_pp.cnpp_core.training.trainer import Trainer
from controlnet_pp.tests.trained import photo, trained, trained_file
from controlnet_pp.tests.training.tiny import CONFIG, SCHEDULE, denoiser, seeded
from safetensors.torch import load_file

diffusers = pytest.importorskip("diffusers", reason="TAESD is built of diffusers' modules")
pytestmark = pytest.mark.weights

MOST_T, SIDE = 200, 64
TRAINED_ON = ("astronaut", "camera", "chelsea", "coffee")
HELD_OUT = ("coins", "rocket")


@pytest.fixture(scope="module")
def taesd():
    """diffusers' AutoencoderTiny with the weights of the authors' files."""
    autoencoder = diffusers.AutoencoderTiny()
    for part, first in (("encoder", 0), ("decoder", 1)):  # the authors' decoder begins with tanh
        weights = {}
        for name, tensor in load_file(trained_file(f"taesd_{part}.safetensors")).items():
            index, _, rest = name.partition(".")
            weights[f"layers.{int(index) - first}.{rest}"] = tensor.float()
        getattr(autoencoder, part).load_state_dict(weights)
    return autoencoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def hed():
    _, (network,) = trained("softedge")
    return network.requires_grad_(False)


@pytest.fixture
def reward(taesd, hed):
    model = RewardModel.of(Condition.SOFTEDGE, lambda x: taesd.decode(x).sample, hed)
    return RewardModel(model.decode, model.annotate, model.loss, model.measure, latent_scale=1.0)


def batch_of(names, side: int, taesd, hed) -> TrainingBatch:
    """Latents of photographs, with the soft edges of these as hints."""
    pictures = torch.cat([photo(name, side) for name in names])
    edges = hed(pictures)
    context = torch.zeros(len(names), 3, CONFIG.context_dim)
    latents = taesd.encode(pictures * 2 - 1).latents
    return TrainingBatch(latents, context, edges.expand(-1, 3, -1, -1), wanted=edges)


def state_of(batch: TrainingBatch, rows, t, generator) -> State:
    chosen = TrainingBatch(
        batch.x0[rows], batch.context[rows], batch.hint[rows], wanted=batch.wanted[rows]
    )
    eps = torch.randn(chosen.x0.shape, generator=generator)
    return State(chosen, SCHEDULE.q_sample(chosen.x0, t, eps), t, eps)


def test_a_decoded_latent_of_a_photograph_is_the_photograph(taesd):
    """Else nothing here would be about trained networks."""
    picture = photo("astronaut")
    back = taesd.decode(taesd.encode(picture * 2 - 1).latents).sample / 2 + 0.5
    assert (back - picture).square().mean().sqrt() < 0.08


def test_the_gradient_is_finite_and_not_zero_at_every_timestep_that_counts(taesd, hed, reward):
    model = denoiser()
    batch, generator = batch_of(HELD_OUT, SIDE, taesd, hed), seeded(0)
    for t in torch.arange(MOST_T + 1).split(67):
        state = state_of(batch, torch.arange(len(t)) % len(HELD_OUT), t, generator)
        said = model.predict(state)
        (gradient,) = torch.autograd.grad(EfficientReward(reward, MOST_T)(said), said.predicted)
        assert gradient.isfinite().all()
        assert gradient.flatten(1).any(1).all()


def test_training_with_it_lowers_the_loss_of_hed_on_photographs_that_were_held_out(
    taesd, hed, reward
):
    model, mode = denoiser(), Mode.SD_DECODER_UNLOCKED  # what the UNet makes of them is random
    parts = trained_parts(model, [mode])
    set_mode(model, mode)
    learnt, held_out = (batch_of(names, SIDE, taesd, hed) for names in (TRAINED_ON, HELD_OUT))
    term = EfficientReward(reward, MOST_T)

    def states(generator):
        rows = torch.randint(len(learnt), (4,), generator=generator)
        t = torch.randint(MOST_T + 1, (4,), generator=generator)
        return state_of(learnt, rows, t, generator)

    @torch.no_grad()
    def loss() -> float:
        t = torch.tensor([20, 60, 100, 140, 180]).repeat(len(HELD_OUT))
        rows = torch.arange(len(HELD_OUT)).repeat_interleave(5)
        state = state_of(held_out, rows, t, seeded(1))
        pictures = taesd.decode(model.predict(state).x0).sample / 2 + 0.5
        return (hed(pictures.clamp(0, 1)) - state.batch.wanted).square().mean().item()

    before = loss()
    settings = TrainSettings(steps=40, learning_rate=1e-2, warmup=1, schedule="constant")
    Trainer(parts, settings).run(Recipe(model, states, {"reward": (1.0, term)}))
    assert loss() < 0.8 * before
