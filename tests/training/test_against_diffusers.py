"""One training step composed of diffusers' modules, and ours on the same weights and noise."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from controlnet_pp.cnpp_core.checkpoint import to_diffusers
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.network.config import SD15
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.cnpp_core.training.batch import TrainingBatch, noised
from controlnet_pp.cnpp_core.training.denoiser import Denoiser, PredictionType
from controlnet_pp.cnpp_core.training.losses import DiffusionLoss, Recipe
from controlnet_pp.cnpp_core.training.modes import Mode, set_mode, trained_parts
from controlnet_pp.cnpp_core.training.reward import EfficientReward, RewardModel
from controlnet_pp.tests.training.tiny import (
    CONFIG,
    SCHEDULE,
    WITH_Y,
    always,
    batch,
    filled,
    seeded,
)

diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle of these tests")
oracle = importlib.import_module("controlnet_pp.tests.network.diffusers_oracle")
KINDS = {PredictionType.EPS: "epsilon", PredictionType.V: "v_prediction"}
LAMBDA, MOST_T, RATE = 0.5, 600, 1e-3


def scheduler(kind):
    return diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=KINDS[kind],
        clip_sample=False,
    )


def autoencoder():
    torch.manual_seed(3)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        scaling_factor=0.18215,
    )
    return vae.eval().requires_grad_(False)


def lines(pictures):
    """A soft map (B, 1, H, W) of pictures (B, 3, H, W)."""
    grey = pictures.mean(1, keepdim=True)
    return (grey - F.avg_pool2d(grey, 5, stride=1, padding=2)).abs().clamp(0, 1)


def their_step(controlnet, unet, one, kind, vae=None):
    """Loss of diffusers' own modules on one batch, with its gradients by name."""
    noise_scheduler = scheduler(kind)
    generator = seeded(11)
    t = torch.randint(1000, (len(one),), generator=generator)
    noise = torch.randn(one.x0.shape, generator=generator)
    noisy = noise_scheduler.add_noise(one.x0, noise, t)
    down, mid = controlnet(noisy, t, one.context, one.hint, return_dict=False)
    out = unet(
        noisy,
        t,
        one.context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    velocity = noise_scheduler.get_velocity(one.x0, noise, t)
    loss = F.mse_loss(out, noise if kind is PredictionType.EPS else velocity)
    if vae is not None:
        steps = zip(out, t, noisy, strict=True)
        x0 = torch.stack([noise_scheduler.step(*s).pred_original_sample for s in steps])
        image = (vae.decode(x0 / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        r = F.mse_loss(lines(image), one.wanted, reduction="none").mean((1, 2, 3))
        mask = t <= MOST_T
        assert 0 < mask.sum() < len(t)
        loss = loss + LAMBDA * (mask * r).sum() / (mask.sum() + 1e-10)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in controlnet.named_parameters()}


def our_recipe(model, one, vae=None):
    terms = {"diffusion": (1.0, DiffusionLoss())}
    if vae is not None:
        judge = RewardModel.of(Condition.SOFTEDGE, lambda x: vae.decode(x).sample, lines)
        terms["reward"] = (LAMBDA, EfficientReward(judge, MOST_T))
    return Recipe(model, noised(always(one), SCHEDULE), terms)


@pytest.mark.parametrize("kind", list(PredictionType))
@pytest.mark.parametrize("rewarded", [False, True], ids=["diffusion", "with reward"])
def test_a_step_of_training_is_that_of_diffusers(kind, rewarded):
    vae = autoencoder() if rewarded else None
    one = batch(rows=6)
    one = TrainingBatch(
        one.x0, one.context, one.hint, wanted=torch.rand(6, 1, 64, 64, generator=seeded(1))
    )
    unet, controlnet = filled(UNet(CONFIG)), filled(ControlNet(CONFIG), seed=1)
    theirs = oracle.controlnet(filled(ControlNet(CONFIG), seed=1)).train()
    frozen = oracle.unet(filled(UNet(CONFIG))).requires_grad_(False)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=RATE, weight_decay=1e-2)
    their_loss, gradients = their_step(theirs, frozen, one, kind, vae)
    optimizer.step()

    model = Denoiser(unet, SCHEDULE, controlnet, kind)
    set_mode(model, Mode.SD_LOCKED)
    loss = our_recipe(model, one, vae)(seeded(11))
    before = {name: value.clone() for name, value in controlnet.state_dict().items()}
    parameters = list(trained_parts(model, [Mode.SD_LOCKED]).parameters())
    own = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-2)
    loss.backward()
    own.step()

    assert loss.item() == pytest.approx(their_loss, rel=1e-5)
    ours = to_diffusers({n: p.grad for n, p in controlnet.named_parameters()}, CONFIG)
    assert relative_error(ours, gradients) < 1e-4
    start = to_diffusers(before, CONFIG)
    moved, their_moves = (
        {name: value - start[name] for name, value in after.items()}
        for after in (to_diffusers(controlnet.state_dict(), CONFIG), theirs.state_dict())
    )
    # AdamW's first step goes by the signs of the gradient, and some are as good as zero.
    assert relative_error(moved, their_moves) < 2e-2


def test_the_pooled_embedding_of_sdxl_reaches_both_networks():
    model = Denoiser(filled(UNet(WITH_Y)), SCHEDULE, filled(ControlNet(WITH_Y), seed=1))
    set_mode(model, Mode.SD_LOCKED)
    our_recipe(model, batch(config=WITH_Y))(seeded(11)).backward()
    assert model.controlnet.label_emb[0][0].weight.grad.any()
    one = batch(config=WITH_Y)
    other = TrainingBatch(one.x0, one.context, one.hint, one.y + 1)
    assert our_recipe(model, one)(seeded(11)) != our_recipe(model, other)(seeded(11))


def relative_error(ours, theirs):
    assert ours.keys() == theirs.keys()
    a, b = (torch.cat([values[name].flatten() for name in theirs]) for values in (ours, theirs))
    return float((a - b).norm() / b.norm())


@pytest.mark.slow
def test_a_step_at_the_true_size_of_sd15_is_that_of_diffusers():
    """At 256 px, batch 1; what it costs is measured by `nox -s bench -- training_cost`."""
    torch.manual_seed(0)
    unet = UNet(SD15).requires_grad_(False)
    controlnet = ControlNet.from_unet(unet)
    with torch.no_grad():
        for conv in (*controlnet.zero_convs, controlnet.middle_block_out):
            conv[0].weight.normal_(0, 1e-2)
    one, kind = batch(rows=1, config=SD15, side=32), PredictionType.EPS
    theirs, frozen = oracle.controlnet(controlnet).train(), oracle.unet(unet).requires_grad_(False)
    their_loss, gradients = their_step(theirs, frozen, one, kind)

    model = Denoiser(unet, SCHEDULE, controlnet)
    set_mode(model, Mode.SD_LOCKED)
    loss = our_recipe(model, one)(seeded(11))
    loss.backward()
    assert loss.item() == pytest.approx(their_loss, rel=1e-5)
    ours = to_diffusers({n: p.grad for n, p in controlnet.named_parameters()}, SD15)
    assert relative_error(ours, gradients) < 1e-3
