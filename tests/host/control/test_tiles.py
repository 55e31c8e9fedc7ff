"""Controls whose hint other packs cut into tiles: neutral ones are the host's, shaped heed it.

The reference is the host's own control, its residuals edited by hand, in the same tiles.
"""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.packs import (
    tiled_diffusion,
    tiled_ksampler,
    ultimate_sd_upscale,
)
from controlnet_pp.tests.host.control.shaping import (
    block_scales,
    control_in,
    fitted,
    left,
    masked,
    mode,
    speed,
)
from controlnet_pp.tests.host.harness import TINY, apply, picture
from controlnet_pp.tests.host.residuals import edited, evaluations

CLOSE = 2e-4
HALF = (0.5, 0.5, 0.5, 0.5, 0.5)
EMPTY = torch.zeros(1, 4, 16, 16)


def in_one_model(host, conditioning, latent=EMPTY, **options):
    return tiled_diffusion(
        host, host.model(TINY), conditioning, latent=latent, **{"together": 2, "steps": 2} | options
    )


def in_many_samplings(host, conditioning, latent=EMPTY, **options):
    return tiled_ksampler(host, host.model(TINY), conditioning, latent, **{"steps": 2} | options)


def in_cropped_samplings(host, conditioning, latent=EMPTY, **options):
    return ultimate_sd_upscale(
        host, host.model(TINY), conditioning, latent, **{"steps": 2} | options
    )


WAYS = {
    "TiledDiffusion": in_one_model,
    "TiledKSampler": in_many_samplings,
    "Ultimate SD Upscale": in_cropped_samplings,
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def halved(blocks, *_):
    return [block * 0.5 for block in blocks]


@ways
def test_a_neutral_control_is_the_hosts_own_bit_for_bit(host, way):
    from comfy.controlnet import ControlNet

    ours, theirs = host.pair(TINY)
    conditioning = apply(host, ours)
    assert type(ours) is type(control_in(conditioning)) is ControlNet
    wanted = way(host, apply(host, theirs, node="ControlNetApplyAdvanced"))
    assert torch.equal(way(host, conditioning), wanted)


@ways
@pytest.mark.parametrize("batch", [1, 2])
def test_a_shaped_control_reads_the_hint_of_each_tile(host, way, batch):
    settings = {"image": picture(batch=batch)}
    latent = torch.zeros(batch, 4, 16, 16)
    scales = block_scales(host, *HALF)
    got = way(host, apply(host, host.pair(TINY)[0], scales=scales, **settings), latent)
    if way is in_cropped_samplings:  # it copies controls, which would lose an edit by hand
        _, theirs = host.pair(TINY)
        wanted = way(
            host,
            apply(host, theirs, node="ControlNetApplyAdvanced", strength=0.4, **settings),
            latent,
        )
    else:
        wanted = way(host, edited(host, halved, **settings), latent)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()
    whole = host.sample(host.model(TINY), *edited(host, halved, **settings), latent=latent, steps=2)
    assert (got - whole).abs().max() > 100 * CLOSE


@pytest.mark.parametrize("together", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 2])
def test_rows_are_told_apart_in_every_tile_of_a_call(host, together, batch):
    def cond_only(blocks, x, _t, options):
        sides = torch.tensor(options["cond_or_uncond"])
        per_tile = (sides == 0).float().repeat_interleave(batch)
        rows = per_tile.repeat(x.shape[0] // len(per_tile)).view(-1, 1, 1, 1)
        return [block * rows for block in blocks]

    ours, _ = host.pair(TINY)
    settings = {"image": picture(batch=batch)}
    latent = torch.zeros(batch, 4, 16, 16)
    got = in_one_model(
        host,
        apply(host, mode(host, ours, "cond rows only"), **settings),
        latent,
        together=together,
    )
    wanted = in_one_model(host, edited(host, cond_only, **settings), latent, together=together)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_every_tile_keeps_residuals_of_its_own(host):
    ours, _ = host.pair(TINY)
    shaped = speed(host, ours, reuse_every=2)
    latents = []
    for together in (1, 4):
        with evaluations(ours.control_model) as rows:
            latents.append(in_one_model(host, apply(host, shaped), together=together, steps=4))
        assert sum(rows) == 2 * 4 * 2  # both prompts of four tiles, at every other step
    every = in_one_model(host, apply(host, ours), steps=4)
    assert (latents[0] - latents[1]).abs().max() < CLOSE * latents[0].abs().max()
    assert (latents[0] - every).abs().max() > 10 * CLOSE


def test_a_chain_is_cut_link_by_link(host):
    ours, theirs = host.pair(TINY)

    def chained(first, second, node):
        positive, negative = apply(host, first, node=node)
        return apply(
            host, second, node=node, positive=positive, negative=negative, image=picture(9)
        )

    wanted = in_one_model(host, chained(theirs, theirs, "ControlNetApplyAdvanced"))
    got = in_one_model(host, chained(mode(host, ours), mode(host, ours), "CNPP_Apply"))
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


@pytest.mark.parametrize("way", [in_one_model, in_cropped_samplings])
def test_a_mask_is_refused_by_name_for_its_place_is_not_known(host, way):
    shaped = masked(host, host.pair(TINY)[0], left())
    with pytest.raises(ValueError, match=r"tiles.*Block Masks can't act"):
        way(host, apply(host, shaped))


def test_a_fit_that_the_other_pack_overrides_is_refused_by_name(host):
    image = picture(height=96, width=200)
    padded = fitted(host, host.pair(TINY)[0], "pad")
    with pytest.raises(ValueError, match=r"tiles.*Hint Fit can't act"):
        in_one_model(host, apply(host, padded, image=image))
    follow = fitted(host, host.pair(TINY)[0], follow_area=True)  # no area: nothing to follow
    in_one_model(host, apply(host, follow))


def test_a_tiled_run_that_broke_off_leaves_no_tile_behind(host):
    """The next picture is of a tile's size, so a hint left behind would fit it."""
    ours, _ = host.pair(TINY)
    conditioning = apply(host, mode(host, ours))
    small = torch.zeros(1, 4, 8, 8)
    wanted = host.sample(host.model(TINY), *conditioning, latent=small)

    class StopError(Exception):
        pass

    calls = []

    def stopped(_module, _inputs):
        calls.append(1)
        if len(calls) == 3:
            raise StopError

    handle = host.model(TINY).model.diffusion_model.register_forward_pre_hook(stopped)
    try:
        with pytest.raises(StopError):
            in_one_model(host, conditioning)
    finally:
        handle.remove()
    assert control_in(conditioning).cond_hint is not None
    assert torch.equal(host.sample(host.model(TINY), *conditioning, latent=small), wanted)


def test_a_hint_of_another_size_is_not_taken_for_a_tile(host):
    """As in the host, which computes its own where the one that is there does not fit."""
    ours, _ = host.pair(TINY)
    conditioning = apply(host, mode(host, ours))
    wanted = host.sample(host.model(TINY), *conditioning)
    control_in(conditioning).cond_hint = torch.zeros(1, 3, 64, 64)
    assert torch.equal(host.sample(host.model(TINY), *conditioning), wanted)


def test_a_shaped_control_passes_for_what_it_wraps(host, kind_of):
    from comfy.controlnet import ControlLora, ControlNet, T2IAdapter

    ours, _ = host.pair(TINY)
    wrapped = {
        ControlNet: mode(host, ours),
        ControlLora: mode(host, kind_of("control-lora")[1]),
        T2IAdapter: mode(host, kind_of("t2i full")[1]),
    }
    for kind, control in wrapped.items():
        assert isinstance(control, kind)
        assert type(control) is not kind
