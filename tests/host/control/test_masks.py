"""Control only in parts of the picture, against the host's own residuals cut by hand."""

from __future__ import annotations

import torch
from controlnet_pp.tests.host.control.shaping import CLOSE, left, masked, sampled
from controlnet_pp.tests.host.harness import TINY, TINY_SD15, apply, prompt
from controlnet_pp.tests.host.residuals import captured


def test_a_mask_of_ones_is_no_mask_and_one_of_zeros_is_no_control(host):
    ours, _ = host.pair(TINY)
    plain = sampled(host, apply(host, ours))
    ones, zeros = torch.ones(1, 50, 70), torch.zeros(1, 50, 70)
    assert torch.equal(sampled(host, apply(host, masked(host, ours, ones))), plain)
    nothing = sampled(host, (prompt(TINY, 1), prompt(TINY, 2)))
    assert torch.equal(sampled(host, apply(host, masked(host, ours, zeros))), nothing)


def test_half_a_mask_leaves_the_other_half_without_residuals(host):
    ours, _ = host.pair(TINY_SD15)
    model = host.model(TINY_SD15)
    plain = captured(host, model, *apply(host, ours, TINY_SD15))
    calls = captured(host, model, *apply(host, masked(host, ours, left()), TINY_SD15))
    # From the first step, before the two samplings part.
    for key in ("output", "middle"):
        for got, full in zip(calls[0]["control"][key], plain[0]["control"][key], strict=True):
            half = got.shape[-1] // 2
            assert not got[..., half:].any()
            assert torch.equal(got[..., :half], full[..., :half])


def test_an_inverted_mask_is_the_mask_of_the_rest(host):
    ours, _ = host.pair(TINY)
    a = sampled(host, apply(host, masked(host, ours, 1 - left())))
    assert torch.equal(sampled(host, apply(host, masked(host, ours, left(), invert=True))), a)


def test_every_group_of_blocks_may_have_its_own_mask(host):
    ours, _ = host.pair(TINY_SD15)
    shaped = masked(host, ours, left(), "detail")
    shaped = masked(host, shaped, 1 - left(), "structure")
    shaped = masked(host, shaped, torch.zeros(1, 8, 8), "middle")
    shaped = masked(host, shaped, torch.ones(1, 8, 8), "one block", block=3)
    first = captured(host, host.model(TINY_SD15), *apply(host, shaped, TINY_SD15))[0]["control"]
    for i, block in enumerate(first["output"]):
        half = block.shape[-1] // 2
        assert block[..., :half].any() == (i < 6)
        assert block[..., half:].any() == (i == 3 or i >= 6)
    assert first["middle"] == [None]


def test_a_batch_of_masks_gives_every_image_its_own(host):
    ours, _ = host.pair(TINY)
    masks = torch.cat([left(), torch.ones(1, 128, 128), 1 - left()])
    latent = torch.zeros(3, 4, 16, 16)
    together = sampled(host, apply(host, masked(host, ours, masks)), latent=latent)
    for i in range(3):
        shaped = masked(host, ours, masks[i : i + 1])
        alone = sampled(host, apply(host, shaped), latent=latent)
        assert (together[i] - alone[i]).abs().max() < CLOSE * alone.abs().max()
