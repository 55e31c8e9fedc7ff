"""Percent from sigma: where something changes at a percent, sigmas decide, as in the host."""

from __future__ import annotations

import math

import pytest
import torch
from controlnet_pp.cnpp_core.control.rows import RowScales
from controlnet_pp.cnpp_core.control.scales import ScaleProduct
from controlnet_pp.cnpp_core.control.schedule import KeyFrame, ScaleSchedule, UniformScales
from controlnet_pp.cnpp_core.control.shape import ControlShape
from controlnet_pp.cnpp_core.control.timing import Timing
from controlnet_pp.cnpp_core.diffusion.schedule import NoiseSchedule
from hypothesis import given
from hypothesis import strategies as st

ALPHAS = NoiseSchedule.scaled_linear().alphas_cumprod.double()
LOG_SIGMAS = ((1 - ALPHAS) / ALPHAS).sqrt().log()


def discrete(percent: float) -> float:
    """Of Stable Diffusion: log sigma between whole timesteps is interpolated."""
    if percent <= 0:
        return 999999999.9
    if percent >= 1:
        return 0.0
    t = (1 - percent) * 999
    low, part = int(t), t - int(t)
    high = min(low + 1, 999)
    return math.exp((1 - part) * float(LOG_SIGMAS[low]) + part * float(LOG_SIGMAS[high]))


def flow(percent: float, shift: float = 3.0) -> float:
    """Of flow models, shifted."""
    t = 1 - percent
    return shift * t / (1 + (shift - 1) * t)


def single(value: float) -> float:
    return torch.tensor(value).item()


@pytest.mark.parametrize("percent_to_sigma", [discrete, flow])
@given(mark=st.integers(1, 99).map(lambda percent: percent / 100))
def test_a_change_at_the_sigma_of_a_step_counts_for_that_step(percent_to_sigma, mark):
    sigma = single(percent_to_sigma(mark))  # as a step of a sampler has it
    timing = Timing(percent_to_sigma, [0.0, mark, 1.0])
    assert timing.percent(sigma) == mark
    just_before = torch.nextafter(torch.tensor(sigma), torch.tensor(math.inf)).item()
    just_behind = torch.nextafter(torch.tensor(sigma), torch.tensor(0.0)).item()
    assert timing.percent(just_before) < mark < timing.percent(just_behind)
    assert timing.percent(just_before) == pytest.approx(mark, abs=1e-4)


def test_away_from_marks_they_change_nothing():
    plain, marked = Timing(discrete), Timing(discrete, [0.2, 0.5])
    for percent in (0.05, 0.21, 0.49, 0.77):
        assert marked.percent(discrete(percent)) == plain.percent(discrete(percent))


def test_a_shape_knows_every_key_frame_in_it():
    inner = ScaleSchedule((KeyFrame(0.3, UniformScales(1.0)),))
    outer = ScaleSchedule((KeyFrame(0.1, inner), KeyFrame(0.6, UniformScales(0.5))))
    product = ScaleProduct((UniformScales(1.0), ScaleSchedule((KeyFrame(0.8, inner),))))
    assert ControlShape().marks == frozenset()
    assert ControlShape(outer, RowScales(uncond=product)).marks == {0.1, 0.3, 0.6, 0.8}
