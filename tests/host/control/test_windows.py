"""A control under context windows: slices of a longer batch, and many sizes by turns."""

from __future__ import annotations

import types

import torch
from controlnet_pp.tests.host.control.shaping import control_in, masked, mode
from controlnet_pp.tests.host.harness import TINY, apply, picture, prompt

CLOSE = 5e-4


def test_windows_of_a_longer_batch_take_their_own_frames(host):
    """Context windows hand over slices of the batch; each frame keeps its own hint and mask."""
    ours, _ = host.pair(TINY)
    frames, size = 4, 16
    hints = picture(batch=frames)
    masks = torch.rand(frames, 16, 16, generator=torch.Generator().manual_seed(1)).round()
    applied = control_in(apply(host, masked(host, ours, masks), image=hints))
    model = host.model(TINY).model
    x = torch.randn(frames, 4, size, size, generator=torch.Generator().manual_seed(2))
    context = prompt(TINY, 1)[0][0]
    sigma = model.model_sampling.percent_to_sigma(0.5)

    def ask(rows, window):
        options = {"cond_or_uncond": [0], "uuids": ["a"], "sample_sigmas": torch.tensor([sigma, 0])}
        if window is not None:
            options["context_window"] = types.SimpleNamespace(index_list=window)
        with torch.inference_mode():
            return applied.get_control(
                x[rows],
                torch.full((len(rows),), sigma),
                {"c_crossattn": context.repeat(len(rows), 1, 1)},
                1,
                options,
            )

    applied.pre_run(model, model.model_sampling.percent_to_sigma)
    whole = ask(list(range(frames)), None)
    for window in ([0, 1], [2, 3], [1, 3], [3]):
        part = ask(window, window)
        for key in ("output", "middle"):
            for got, all_frames in zip(part[key], whole[key], strict=True):
                difference = (got - all_frames[window]).abs().max()
                assert difference < CLOSE * all_frames.abs().max()


def test_many_windows_do_not_keep_a_hint_each(host):
    ours, _ = host.pair(TINY)
    control = control_in(apply(host, mode(host, ours), image=picture(batch=12)))
    model = host.model(TINY).model
    control.pre_run(model, model.model_sampling.percent_to_sigma)
    context = prompt(TINY, 1)[0][0]
    for width in range(4, 24):
        with torch.inference_mode():
            control.get_control(
                torch.zeros(1, 4, 8, width),
                torch.ones(1),
                {"c_crossattn": context},
                1,
                {"cond_or_uncond": [0], "uuids": ["a"]},
            )
    assert len(control._run.hints) <= 6
