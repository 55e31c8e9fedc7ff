"""Everything that shapes a control, mixed at random."""

from __future__ import annotations

import random

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import block_scales, mode, percent, schedule
from controlnet_pp.tests.host.harness import TINY, apply, picture
from controlnet_pp.tests.host.residuals import edited

CLOSE = 5e-4


@pytest.mark.parametrize("seed", range(16))
def test_any_mixture_equals_the_host_edited_by_hand(host, monkeypatch, seed):
    """Random size, batch, steps, sampler, window, splits, mode, schedule and chain."""
    chance = random.Random(seed)
    ours, theirs = host.pair(TINY)
    height, width = chance.choice([8, 11, 16]), chance.choice([8, 13, 16])
    sampling = {
        "latent": torch.zeros(chance.choice([1, 2, 3]), 4, height, width),
        "steps": chance.choice([2, 4, 5]),
        "sampler": chance.choice(["euler", "heun", "dpm_2", "dpmpp_2m"]),
        "cfg": chance.choice([1.0, 4.0]),
        "seed": seed,
    }
    start, end = sorted(chance.choice([0.0, 0.2, 0.6, 1.0]) for _ in range(2))
    changes = {
        "image": picture(seed, chance.choice([1, 2]), 64, chance.choice([64, 90])),
        "strength": chance.choice([0.5, 1.0, 1.3]),
        "start_percent": start,
        "end_percent": end,
    }
    low, block = chance.choice([0.0, 0.5]), chance.randrange(5)
    cond, uncond = chance.choice([(1.0, 1.0), (1.0, 0.0), (0.5, 1.5), (0.0, 1.0)])

    def edit(blocks, x, t, options):
        fade = 1.0 + (low - 1.0) * percent(host, t)
        sides = options["cond_or_uncond"]
        factors = torch.tensor([uncond if s else cond for s in sides])
        rows = factors.repeat_interleave(x.shape[0] // len(sides)).view(-1, 1, 1, 1) * fade
        return [b * rows * (2.0 if i == block else 1.0) for i, b in enumerate(blocks)]

    values = [2.0 if i == block else 1.0 for i in range(5)]
    listed = block_scales(host, *values)
    scales = schedule(host, f"0%: scales; 100%: scales * {low}", scales=listed)
    control = mode(host, ours, cond=cond, uncond=uncond)
    if chance.random() < 0.5:
        split = chance.choice([2, 3])
        calls = []

        def memory_required(shape, **_options):
            calls.append(1)
            return 1e20 if len(calls) % split == 0 and shape[0] > 1 else 0.0

        monkeypatch.setattr(host.model(TINY).model, "memory_required", memory_required)

    def chained(conditioning):
        if seed % 3 == 0:
            return conditioning
        link = theirs if seed % 3 == 1 else ours
        return apply(
            host, link, positive=conditioning[0], negative=conditioning[1], image=picture(7)
        )

    model = host.model(TINY)
    got = host.sample(model, *chained(apply(host, control, scales=scales, **changes)), **sampling)
    wanted = host.sample(model, *chained(edited(host, edit, **changes)), **sampling)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max().clamp_min(1.0)
