"""The training loop and the diffusion loss."""

import math

import pytest
import torch
from controlnet_pp.cnpp_core.diffusion.schedule import NoiseSchedule
from controlnet_pp.cnpp_core.network.config import NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.cnpp_core.training.losses import diffusion_loss, drop_text, layout_weights
from controlnet_pp.cnpp_core.training.trainer import Trainer, TrainSettings
from torch import nn

CONFIG = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(1, 1),
    context_dim=16,
)
SCHEDULE = NoiseSchedule.scaled_linear()


def regression():
    """A linear layer and a loss whose minimum is known: y = 3 x - 1."""
    torch.manual_seed(0)
    layer = nn.Linear(1, 1)

    def loss(generator):
        x = torch.randn(32, 1, generator=generator)
        return (layer(x) - (3 * x - 1)).square().mean()

    return layer, loss


SETTINGS = TrainSettings(steps=300, learning_rate=0.1, weight_decay=0.0, warmup=10, ema_decay=0.9)


def test_training_finds_the_minimum_and_averages_towards_it():
    layer, loss = regression()
    trainer = Trainer(layer, SETTINGS)
    trainer.run(loss)
    for network in (layer, trainer.averaged):
        assert network.weight.item() == pytest.approx(3, abs=0.02)
        assert network.bias.item() == pytest.approx(-1, abs=0.02)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    def trained(seed):
        layer, loss = regression()
        Trainer(layer, TrainSettings(steps=20, learning_rate=0.1, seed=seed)).run(loss)
        return layer.weight.item()

    assert trained(1) == trained(1)
    assert trained(1) != trained(2)


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    layer, loss = regression()
    Trainer(layer, SETTINGS).run(loss)

    first_layer, first_loss = regression()
    first = Trainer(first_layer, SETTINGS)

    def stop(step, _):
        if step == 120:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(first_loss, stop)
    first.save(tmp_path / "state.pt")

    second_layer, second_loss = regression()
    second = Trainer(second_layer, SETTINGS)
    second.load(tmp_path / "state.pt")
    assert second.step == 120
    second.run(second_loss)
    assert torch.equal(second_layer.weight, layer.weight)
    assert not torch.equal(second_layer.bias, first_layer.bias)


def test_accumulated_steps_equal_one_step_over_the_whole_batch():
    x = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))

    def trained(parts):
        torch.manual_seed(0)
        layer = nn.Linear(1, 1)
        batches = iter(list(x.chunk(parts)) * 5)
        settings = TrainSettings(steps=5, learning_rate=0.1, accumulate=parts)
        Trainer(layer, settings).run(lambda _: (layer(next(batches)) - 1).square().mean())
        return layer.weight

    assert torch.allclose(trained(1), trained(4), atol=1e-5)


def test_the_learning_rate_rises_then_falls_to_zero():
    settings = TrainSettings(steps=1000, learning_rate=1.0, warmup=100)
    assert settings.rate(0) == pytest.approx(0.01, rel=1e-3)
    assert settings.rate(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.099)))
    assert settings.rate(500) == pytest.approx(0.5)
    assert settings.rate(999) < 1e-4


def test_a_loss_that_explodes_stops_the_training_with_advice():
    layer = nn.Linear(1, 1)
    trainer = Trainer(layer, TrainSettings(steps=3))
    with pytest.raises(RuntimeError, match=r"loss is inf at step 1; lower the learning rate"):
        trainer.run(lambda _: layer(torch.full((1, 1), math.inf)).abs().sum())


def test_a_network_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="Nothing to train"):
        Trainer(nn.Linear(1, 1).requires_grad_(False), SETTINGS)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(4, 4, 8, 8, generator=generator)
    hint = torch.rand(4, 3, 64, 64, generator=generator)
    context = torch.randn(4, 3, 16, generator=generator)
    return x0, hint, context


def test_the_loss_is_the_error_of_the_predicted_noise():
    x0, _, context = batch()

    class Silent(UNet):
        def forward(self, x, timesteps, context, y=None, residuals=None):
            return torch.zeros_like(x)

    loss = diffusion_loss(Silent(CONFIG), SCHEDULE, x0, context, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    torch.randint(1000, (4,), generator=generator)
    assert loss.item() == pytest.approx(
        torch.randn(x0.shape, generator=generator).square().mean().item(), rel=1e-5
    )


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1 / 16), (0.5, 0.504)])
def test_offset_noise_moves_the_mean_of_each_channel(offset, spread):
    seen = []

    class Recorder(UNet):
        def forward(self, x, timesteps, context, y=None, residuals=None):
            seen.append(x)
            return torch.zeros_like(x)

    x0, context = torch.zeros(500, 4, 16, 16), torch.zeros(500, 1, 16)
    generator = torch.Generator().manual_seed(0)
    diffusion_loss(Recorder(CONFIG), SCHEDULE, x0, context, generator, noise_offset=offset)
    means = seen[0].mean(dim=(2, 3)) / seen[0].std(dim=(2, 3))
    assert means.std().item() == pytest.approx(spread, rel=0.05)


def test_weights_count_the_error_at_its_own_timestep():
    class Blind(UNet):
        """Predicts no noise at all, so that the error of a picture is that of its noise."""

        def forward(self, x, timesteps, *_, **__):
            steps.append(timesteps)
            return torch.zeros_like(x)

    steps: list[torch.Tensor] = []
    x0, _, context = batch()
    network, noisiest = Blind(CONFIG), (torch.arange(len(SCHEDULE)) >= 500).float()

    def loss(weights):
        generator = torch.Generator().manual_seed(3)
        return diffusion_loss(network, SCHEDULE, x0, context, generator, weights=weights).item()

    plain, weighted = loss(None), loss(noisiest)
    generator = torch.Generator().manual_seed(3)
    torch.randint(len(SCHEDULE), (len(x0),), generator=generator)
    errors = torch.randn(x0.shape, generator=generator).square().mean((1, 2, 3))
    assert plain == pytest.approx(errors.mean().item(), rel=1e-6)
    counted = errors * (steps[1] >= 500)
    assert weighted == pytest.approx(counted.mean().item(), rel=1e-6)
    assert 0 < weighted < plain


def test_layout_weights_count_the_error_in_x0_up_to_a_bound():
    weights = layout_weights(SCHEDULE, most=25)
    x0 = torch.ones(1, 4, 2, 2)
    assert weights.mean().item() == pytest.approx(1)
    assert weights.max() / weights.min() == pytest.approx(25)

    def x0_error(t):
        step, eps, wrong = torch.tensor([t]), torch.zeros_like(x0), torch.full_like(x0, 0.1)
        x_t = SCHEDULE.q_sample(x0, step, eps)
        return (SCHEDULE.predict_x0(x_t, step, wrong) - x0).square().mean()

    inside = [t for t in range(1000) if 1 < SCHEDULE.sigmas[t] ** 2 < 25]
    first, last = inside[0], inside[-1]
    # The same error in the noise, as an error in x0.
    assert weights[last] / weights[first] == pytest.approx(
        (x0_error(last) / x0_error(first)).item(), rel=1e-4
    )


def test_a_controlnet_learns_through_a_frozen_unet():
    torch.manual_seed(0)
    unet = UNet(CONFIG).requires_grad_(False)
    controlnet = ControlNet.from_unet(unet)
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    x0, hint, context = batch()

    def loss(_):  # the same noise each time: the network can learn it by heart
        fixed = torch.Generator().manual_seed(5)
        return diffusion_loss(unet, SCHEDULE, x0, context, fixed, controlnet=controlnet, hint=hint)

    start = loss(None).item()
    Trainer(controlnet, TrainSettings(steps=25, learning_rate=3e-3, warmup=1)).run(loss)
    assert loss(None).item() < 0.8 * start
    assert any(conv[0].weight.any() for conv in controlnet.zero_convs)
    assert all(torch.equal(before[key], value) for key, value in unet.state_dict().items())


def test_a_controlnet_without_hints_is_refused():
    unet = UNet(CONFIG)
    x0, _, context = batch()
    with pytest.raises(ValueError, match="hint for every picture"):
        diffusion_loss(
            unet,
            SCHEDULE,
            x0,
            context,
            torch.Generator(),
            controlnet=ControlNet.from_unet(unet),
        )


def test_text_is_dropped_in_the_given_share_of_rows():
    context, empty = torch.ones(4000, 2, 3), torch.zeros(1, 2, 3)
    generator = torch.Generator().manual_seed(0)
    kept = drop_text(context, empty, 0.25, generator).mean(dim=(1, 2))
    assert set(kept.tolist()) == {0.0, 1.0}
    assert kept.mean().item() == pytest.approx(0.75, abs=0.03)
