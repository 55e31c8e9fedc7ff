"""The efficient reward against the published formula, and where its gradient goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from controlnet_pp.annotators.canny import canny_magnitude
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.losses import line_loss
from controlnet_pp.cnpp_core.training.batch import State, noised
from controlnet_pp.cnpp_core.training.losses import DiffusionLoss, Recipe
from controlnet_pp.cnpp_core.training.modes import Mode, set_mode
from controlnet_pp.cnpp_core.training.reward import (
    EfficientReward,
    RewardModel,
    TrajectoryReward,
)
from controlnet_pp.tests.training.tiny import SCHEDULE, always, batch, denoiser, seeded
from torch import nn

SCALE = 0.18215
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


class Decoder(nn.Module):
    """Latents (B, 4, H, W) -> pictures (B, 3, 8H, 8W), about -1..1."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3, padding=1)
        self.seen = []

    def forward(self, latents):
        self.seen.append(len(latents))
        return self.conv(F.interpolate(latents, scale_factor=8, mode="bilinear"))


class Segmenter(nn.Module):
    """Pictures -> logits of three classes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, pictures):
        return self.conv(pictures * 2 - 1)


def frozen(module, seed):
    torch.manual_seed(seed)
    return module().requires_grad_(False)


def parts():
    return frozen(Decoder, 1), frozen(Segmenter, 2)


def model_of(kind, decode, annotate):
    classes = (COLOURS, ("a", "b", "c"), "three")
    return RewardModel.of(kind, decode, annotate, kind.measure(classes=classes))


def labelled(rows=4):
    """A batch whose hints are segmentations, with a stripe of no class; and their classes."""
    classes = torch.randint(0, 3, (rows, 8, 8), generator=seeded(3))
    classes = classes.repeat_interleave(8, 1).repeat_interleave(8, 2)
    hint = (torch.tensor(COLOURS) / 255.0)[classes].movedim(-1, 1)
    return replace(batch(rows), hint=hint), classes


def state(one, t, seed=5):
    """Noise on the batch at these timesteps."""
    t = torch.tensor(t)
    eps = torch.randn(one.x0.shape, generator=seeded(seed))
    return State(one, SCHEDULE.q_sample(one.x0, t, eps), t, eps)


def published(said, t, decoder, loss_of_rows, most_t=200):
    """The reward as it is published: everything is decoded, and a mask selects."""
    alpha_bar = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
    x0 = (said.state.x_t - (1 - alpha_bar).sqrt() * said.predicted) / alpha_bar.sqrt()
    image = (decoder(x0 / SCALE) / 2 + 0.5).clamp(0, 1)
    r = loss_of_rows(image)
    mask = (t <= most_t).float()
    return (mask * r).sum() / (mask.sum() + 1e-10)


def test_the_reward_of_segmentations_is_the_published_one():
    model, (decoder, segmenter) = denoiser(), parts()
    one, classes = labelled()
    said = model.predict(state(one, [10, 200, 201, 900]))
    reward = EfficientReward(model_of(Condition.SEG, decoder, segmenter))(said)

    def rows(image):
        return F.cross_entropy(segmenter(image), classes, reduction="none").mean((1, 2))

    expected = published(said, said.state.t, decoder, rows)
    assert reward.item() == pytest.approx(expected.item(), abs=1e-5)
    ours, theirs = (
        torch.autograd.grad(loss, list(model.controlnet.parameters()), retain_graph=True)
        for loss in (reward, expected)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_reward_of_canny_is_the_error_of_the_soft_magnitude():
    """The published hint is the magnitude itself, so it is what is wanted, not its lines."""
    model, (decoder, _) = denoiser(), parts()
    magnitude = canny_magnitude(torch.rand(4, 3, 64, 64, generator=seeded(7)))
    one = replace(batch(), hint=magnitude.expand(-1, 3, -1, -1), wanted=magnitude)
    said = model.predict(state(one, [0, 50, 120, 700]))
    reward = EfficientReward(model_of(Condition.CANNY, decoder, canny_magnitude))(said)

    def rows(image):
        return (canny_magnitude(image) - magnitude).square().mean((1, 2, 3))

    expected = published(said, said.state.t, decoder, rows)
    assert expected > 0.01
    assert reward.item() == pytest.approx(expected.item(), abs=1e-5)


def test_diffusion_and_reward_share_the_forward_as_published():
    model, (decoder, segmenter) = denoiser(), parts()
    one, classes = labelled(8)
    terms = {
        "diffusion": (1.0, DiffusionLoss()),
        "reward": (0.5, EfficientReward(model_of(Condition.SEG, decoder, segmenter), most_t=500)),
    }
    loss = Recipe(model, noised(always(one), SCHEDULE), terms)(seeded(1))
    drawn = noised(always(one), SCHEDULE)(seeded(1))
    assert 0 < (drawn.t <= 500).sum() < 8
    said = model.predict(drawn)

    def rows(image):
        return F.cross_entropy(segmenter(image), classes, reduction="none").mean((1, 2))

    expected = (said.predicted - drawn.eps).square().mean()
    expected = expected + 0.5 * published(said, drawn.t, decoder, rows, most_t=500)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_only_pictures_that_count_are_decoded():
    model, (decoder, segmenter) = denoiser(), parts()
    one, _ = labelled()
    reward = EfficientReward(model_of(Condition.SEG, decoder, segmenter))
    reward(model.predict(state(one, [10, 999, 100, 201])))
    assert decoder.seen == [2]
    nothing = reward(model.predict(state(one, [300, 999, 500, 201])))
    assert decoder.seen == [2]
    assert nothing.item() == 0
    nothing.backward()
    assert not any(p.grad.any() for p in model.controlnet.parameters())


def test_the_gradient_passes_through_all_and_stays_in_the_controlnet_alone():
    model, (decoder, segmenter) = denoiser(), parts()
    set_mode(model, Mode.SD_LOCKED)
    one, _ = labelled()
    frozen_parts = nn.ModuleList([model.unet, decoder, segmenter])
    before = {name: value.clone() for name, value in frozen_parts.state_dict().items()}
    said = model.predict(state(one, [10, 50, 100, 150]))
    EfficientReward(model_of(Condition.SEG, decoder, segmenter))(said).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.controlnet.parameters())
    assert all(p.grad is None for p in frozen_parts.parameters())
    after = frozen_parts.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    "annotate",
    [
        lambda pictures: (pictures[:, :1] * 255).to(torch.uint8).float() / 255,
        lambda pictures: pictures[:, :1].detach(),
    ],
    ids=["8 bits", "without autograd"],
)
def test_an_annotator_without_gradient_is_refused(annotate):
    """The published reward of HED ends in a cast to 8 bits, and trains nothing."""
    model, (decoder, _) = denoiser(), parts()
    one = replace(batch(), wanted=torch.rand(4, 1, 64, 64, generator=seeded(0)))
    said = model.predict(state(one, [10, 50, 100, 150]))
    with pytest.raises(ValueError, match=r"gives no gradient.*8 bits"):
        EfficientReward(model_of(Condition.SOFTEDGE, decoder, annotate))(said)


def test_a_picture_whose_condition_says_nothing_counts_zero():
    model, (decoder, segmenter) = denoiser(), parts()
    one, classes = labelled()
    classes[1] = 255
    said = model.predict(state(replace(one, wanted=classes[:, None]), [10, 20, 30, 40]))
    reward = EfficientReward(model_of(Condition.SEG, decoder, segmenter))(said)

    def rows(image):
        mean = F.cross_entropy(segmenter(image), classes, ignore_index=255, reduction="none")
        return mean.mean((1, 2))

    assert reward.item() == pytest.approx(
        published(said, said.state.t, decoder, rows).item(), abs=1e-5
    )
    reward.backward()
    assert all(p.grad.isfinite().all() for p in model.controlnet.parameters())


def test_a_reward_needs_something_wanted():
    model, (decoder, segmenter) = denoiser(), parts()
    model.controlnet = None
    said = model.predict(state(replace(batch(), hint=None), [10, 20, 30, 40]))
    with pytest.raises(ValueError, match="hints or wanted maps"):
        EfficientReward(model_of(Condition.SEG, decoder, segmenter))(said)


def test_on_trajectories_all_steps_count_by_one_over_sigma_with_cfg_in_the_forward():
    model, (decoder, _) = denoiser(), parts()
    wanted = torch.rand(4, 1, 64, 64, generator=seeded(1)) > 0.9
    one = replace(batch(), wanted=wanted)

    def lines(pictures):
        return pictures.mean(1, keepdim=True)

    judge = RewardModel(decoder, lines, line_loss, Condition.CANNY.measure())
    states = replace(state(one, [1, 301, 601, 991]), eps=None)
    loss = Recipe(model, lambda _: states, {"reward": (2.0, TrajectoryReward(judge))}, cfg=3.0)
    guided = model.predict(states, cfg=3.0)
    alpha_bar = SCHEDULE.alphas_cumprod[states.t].view(-1, 1, 1, 1)
    x0 = (states.x_t - (1 - alpha_bar).sqrt() * guided.predicted) / alpha_bar.sqrt()
    r = line_loss(lines((decoder(x0 / SCALE) / 2 + 0.5).clamp(0, 1)), wanted)
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt().flatten()
    assert sigma[0] < 0.3 < sigma[1]
    expected = sum(float(a / max(float(s), 0.3)) for a, s in zip(r.detach(), sigma, strict=True))
    assert loss(seeded(0)).item() == pytest.approx(2 * expected / 4, rel=1e-5)
