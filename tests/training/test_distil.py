"""Latent consistency distillation against an independent computation, and whether it distils."""

from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.diffusion.schedule import NoiseSchedule
from controlnet_pp.cnpp_core.network.config import NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.cnpp_core.training.batch import TrainingBatch
from controlnet_pp.cnpp_core.training.denoiser import Denoiser
from controlnet_pp.cnpp_core.training.distil import ConsistencyDistillation
from controlnet_pp.cnpp_core.training.lora import add_lora
from controlnet_pp.cnpp_core.training.trainer import Trainer, TrainSettings
from torch import nn

CONFIG = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(0, 1),
    context_dim=16,
)
SCHEDULE = NoiseSchedule.scaled_linear()


def unet(seed):
    torch.manual_seed(seed)
    return UNet(CONFIG).requires_grad_(False)


def draw(generator):
    x0 = torch.randn(4, 4, 8, 8, generator=generator)
    context, empty = torch.randn(5, 3, 16, generator=generator).split([4, 1])
    hint = torch.rand(4, 3, 64, 64, generator=generator)
    return TrainingBatch(x0, context, hint, empty=empty)


def alpha_bars():
    """Stable Diffusion's, computed once more."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def clean(network, x, t, context, residuals=None):
    """The consistency function, as it is written in the paper and scaled in the published code."""
    alpha_bar = alpha_bars()[t].view(-1, 1, 1, 1)
    x0 = (x - (1 - alpha_bar).sqrt() * network(x, t, context, residuals=residuals)) / alpha_bar**0.5
    scaled = 10 * t.double().view(-1, 1, 1, 1)
    return 0.25 / (scaled**2 + 0.25) * x + scaled / (scaled**2 + 0.25).sqrt() * x0


@pytest.mark.parametrize("huber_c", [0.001, 0.1, None])
@pytest.mark.parametrize("controlled", [False, True])
def test_the_loss_is_that_of_the_paper(huber_c, controlled):
    student, target, teacher = (unet(seed).double() for seed in range(3))
    control = None
    if controlled:
        control = ControlNet.from_unet(unet(3)).double().requires_grad_(False)
        for convolution in control.zero_convs:
            torch.nn.init.normal_(convolution[0].weight)
    of_student = Denoiser(student, SCHEDULE, control)
    objective = ConsistencyDistillation(
        of_student,
        replace(of_student, unet=target),
        replace(of_student, unet=teacher),
        lambda generator: doubled(draw(generator)),
        cfg=(2.0, 6.0),
        huber_c=huber_c,
    )
    found = objective(torch.Generator().manual_seed(7))

    generator = torch.Generator().manual_seed(7)
    batch = doubled(draw(generator))
    t = 20 * torch.randint(50, (4,), generator=generator) + 19
    cfg = 2 + 4 * torch.rand((), generator=generator).item()
    eps = torch.randn(batch.x0.shape, generator=generator).double()
    before = (t - 20).clamp(min=0)
    here, there = (alpha_bars()[step].view(-1, 1, 1, 1) for step in (t, before))
    x = here.sqrt() * batch.x0 + (1 - here).sqrt() * eps

    def residuals(x, t, context):
        return control(x, batch.hint, t, context) if controlled else None

    def predicted(context):
        return teacher(x, t, context, residuals=residuals(x, t, context))

    empty = batch.empty.expand_as(batch.context)
    cond, uncond = predicted(batch.context), predicted(empty)
    guided = cond + (cfg - 1) * (cond - uncond)
    x_before = there.sqrt() * (x - (1 - here).sqrt() * guided) / here.sqrt()
    x_before = x_before + (1 - there).sqrt() * guided
    wanted = clean(
        target, x_before, before, batch.context, residuals(x_before, before, batch.context)
    )
    difference = clean(student, x, t, batch.context, residuals(x, t, batch.context)) - wanted
    if huber_c is None:
        expected = difference.square().mean()
    else:
        expected = ((difference.square() + huber_c**2).sqrt() - huber_c).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def doubled(batch):
    names = ("x0", "context", "hint", "empty")
    return replace(batch, **{name: getattr(batch, name).double() for name in names})


def test_only_the_student_gets_gradients():
    student, target, teacher = (unet(seed).requires_grad_(True) for seed in range(3))
    denoisers = [Denoiser(network, SCHEDULE) for network in (student, target, teacher)]
    ConsistencyDistillation(*denoisers, draw)(torch.Generator().manual_seed(0)).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in (*target.parameters(), *teacher.parameters()))


def test_at_the_last_level_the_target_is_where_the_teachers_step_ended():
    """Timestep 0, at which the consistency function is the identity: no network has a say."""
    student, teacher = unet(0), unet(1)
    of_student = Denoiser(student, SCHEDULE)

    def loss(target):
        objective = ConsistencyDistillation(
            of_student,
            replace(of_student, unet=target),
            replace(of_student, unet=teacher),
            draw,
            original_steps=1,  # one level, 999 timesteps above 0
        )
        return objective(torch.Generator().manual_seed(0)).item()

    assert loss(unet(2)) == loss(unet(3))


class Gain(nn.Module):
    """Stands for a UNet: predicts the noise in each value as a multiple of it, one per timestep."""

    config, dtype, device = CONFIG, torch.float32, torch.device("cpu")

    def __init__(self, gains):
        super().__init__()
        self.gains = nn.Parameter(gains)

    def encode(self, x, t, context, y=None):
        return self.gains[t].view(-1, 1, 1, 1) * x

    def decode(self, features, context, residuals=None):
        return features


def test_the_student_learns_where_the_teachers_way_leads():
    """Of data of unit variance the best denoiser is known, and what its sampling comes to."""
    levels = 10
    grid = [1000 // levels * (n + 1) - 1 for n in range(levels)]
    alpha_bar = alpha_bars()
    teacher = Gain((1 - alpha_bar).sqrt().float()).requires_grad_(False)
    steps = [0, *(t - 1000 // levels for t in grid[1:])]
    # A step of DDIM multiplies with the cosine of the angle between two noise levels.
    angles = torch.acos(alpha_bar.sqrt())
    wanted = torch.cumprod(torch.cos(angles[grid] - angles[steps]), 0)

    def x0_of_1(network):
        ones = torch.ones(levels, 1, 1, 1, dtype=torch.float64)
        with torch.no_grad():
            found = clean(lambda x, t, c, residuals: network.encode(x, t, c), ones, grid_t, None)
        return found.flatten()

    grid_t = torch.tensor(grid)
    student = Gain(teacher.gains.clone())
    settings = TrainSettings(
        steps=1500, learning_rate=0.01, weight_decay=0.0, warmup=1, ema_decay=0.9
    )
    trainer = Trainer(student, settings)
    assert x0_of_1(student)[-1] < 0.1 < 0.7 < wanted[-1]
    of_student = Denoiser(student, SCHEDULE)
    trainer.run(
        ConsistencyDistillation(
            of_student,
            replace(of_student, unet=trainer.averaged),
            replace(of_student, unet=teacher),
            draw,
            original_steps=levels,
            huber_c=None,
        )
    )
    assert torch.allclose(x0_of_1(trainer.averaged), wanted, rtol=0.05)


@pytest.mark.parametrize("rank", [None, 4], ids=["all weights", "LoRA"])
def test_a_few_steps_bring_a_unet_nearer_to_its_target(rank):
    teacher, student = unet(0), unet(0).requires_grad_(True)
    if rank:
        add_lora(student, rank)
    of_student, of_teacher = Denoiser(student, SCHEDULE), Denoiser(teacher, SCHEDULE)
    distillation = ConsistencyDistillation(of_student, of_teacher, of_teacher, draw)

    def loss(_):  # the same noise each time: the network can learn it by heart
        return distillation(torch.Generator().manual_seed(5))

    before = loss(None).item()
    Trainer(student, TrainSettings(steps=25, learning_rate=3e-3, warmup=1)).run(loss)
    assert loss(None).item() < 0.8 * before


def test_a_range_of_cfg_the_wrong_way_round_is_refused():
    denoiser = Denoiser(unet(0), SCHEDULE)
    with pytest.raises(ValueError, match=r"cfg is drawn from \(9.0, 3.0\)"):
        ConsistencyDistillation(denoiser, denoiser, denoiser, draw, cfg=(9.0, 3.0))
