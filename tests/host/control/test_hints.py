"""Hints of another size, aspect or number than the picture."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import fitted, left, masked, mode, sampled
from controlnet_pp.tests.host.harness import TINY, TINY_SD15, apply, picture


def test_the_default_fit_is_the_hosts_own(host):
    from comfy.utils import common_upscale

    fit = host.pack("cnpp_core.control.hints").HintFit()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        h, w, height, width = (8 * torch.randint(1, 40, (4,), generator=generator)).tolist()
        hint = torch.rand(1, 3, h + 3, w + 5, generator=generator)
        wanted = common_upscale(hint, width, height, "nearest-exact", "center")
        assert torch.equal(fit.place(hint, (height, width)), wanted)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_hint_of_another_aspect_is_fitted_as_said(host, fit):
    place = host.pack("cnpp_core.control.hints").HintFit(fit).place
    image = picture(height=96, width=200)
    by_hand = place(image.movedim(-1, 1), (128, 128)).movedim(1, -1)
    ours, _ = host.pair(TINY)
    got = sampled(host, apply(host, fitted(host, ours, fit), image=image))
    assert torch.equal(got, sampled(host, apply(host, ours, image=by_hand)))
    cropped = sampled(host, apply(host, ours, image=image))
    assert (got - cropped).abs().max() > 0.001


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_batch_of_hints_goes_image_by_image(host, batch):
    ours, theirs = host.pair(TINY)
    latent = torch.zeros(batch, 4, 16, 16)
    settings = {"image": picture(batch=batch)}
    wanted = sampled(
        host, apply(host, theirs, node="ControlNetApplyAdvanced", **settings), latent=latent
    )
    assert torch.equal(sampled(host, apply(host, ours, **settings), latent=latent), wanted)
    fit = fitted(host, ours, "stretch")
    assert torch.equal(sampled(host, apply(host, fit, **settings), latent=latent), wanted)


@pytest.mark.parametrize("size", [(13, 19), (9, 8), (21, 10)])
def test_sides_that_do_not_divide_take_masks_modes_and_fits(host, size):
    ours, _ = host.pair(TINY_SD15)
    shaped = fitted(
        host, mode(host, masked(host, ours, left()), "control is more important"), "pad"
    )
    latent = sampled(
        host, apply(host, shaped, TINY_SD15), latent=torch.zeros(1, 4, *size), layout=TINY_SD15
    )
    assert latent.shape[-2:] == size
    assert latent.isfinite().all()
