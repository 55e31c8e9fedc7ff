"""Controls of other loaders and families: shaped as their own residuals edited by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from controlnet_pp.tests.host.control.foreign import (
    KINDS,
    SHAPED,
    TRANSFORMERS,
    PoolingVAE,
    by_hand,
    host_apply,
    our_apply,
    sampled,
    times,
    untouched,
)
from controlnet_pp.tests.host.control.foreign_unets import FOUR_LEVELS, THREE_LEVELS
from controlnet_pp.tests.host.control.shaping import (
    CLOSE,
    block_scales,
    masked,
    mode,
    schedule,
    speed,
)
from controlnet_pp.tests.host.harness import TINY, picture


@pytest.mark.parametrize("name", KINDS)
def test_a_neutral_shape_is_the_host_bit_for_bit(host, kind_of, name):
    kind, control = kind_of(name)
    wanted = untouched(host, name, kind, control)
    conditioning = our_apply(host, kind, mode(host, control))
    assert type(conditioning[0][0][1]["control"]).__name__ == "ControlNetPlusPlus"
    assert (sampled(host, kind, conditioning) - wanted).abs().max() == 0.0
    bare = sampled(host, kind, kind.prompts())
    assert (bare - wanted).abs().max() > 0.01  # the control does act


@pytest.mark.parametrize("name", SHAPED)
def test_scales_go_by_position_from_shallow_to_deep(host, kind_of, name):
    kind, control = kind_of(name)
    factors = [(0.25, 1.0, 0.0, 2.0, 0.5)[i % 5] for i in range(len(kind.places))]
    wanted = by_hand(host_apply(host, kind, control), kind, lambda b, *_: times(b, factors))
    got = sampled(host, kind, our_apply(host, kind, control, scales=block_scales(host, *factors)))
    assert (got - sampled(host, kind, wanted)).abs().max() == 0.0
    assert (got - untouched(host, name, kind, control)).abs().max() > 0.01


@pytest.mark.parametrize("name", SHAPED)
def test_a_preset_that_a_schedule_switches_on_fits_any_number_of_positions(host, kind_of, name):
    kind, control = kind_of(name)
    count = len(kind.places)
    calls = []

    def edit(blocks, _x, t, _options):
        calls.append(float(t[0]))
        late = calls[-1] < calls[0]
        return times(blocks, [0.5 if i < count // 2 or not late else 0.0 for i in range(count)])

    wanted = by_hand(host_apply(host, kind, control), kind, edit)
    scales = schedule(host, "0%: 0.5; 5%: detail*0.5", "step")
    got = sampled(host, kind, our_apply(host, kind, control, scales=scales))
    assert (got - sampled(host, kind, wanted)).abs().max() == 0.0


@pytest.mark.parametrize("name", SHAPED)
def test_rows_and_a_mask_act_on_the_residuals_of_each_image(host, kind_of, name):
    kind, control = kind_of(name)
    mask = torch.zeros(2, 16, 16)
    mask[0, :, :6], mask[1, 5:] = 1.0, 0.5  # one for each image

    def edit(blocks, x, _t, options):
        sides = options["cond_or_uncond"]
        rows = torch.cat([mask * float(side == 0) for side in sides])
        edits = []
        for block in blocks:
            if block is None:
                edits.append(None)
            elif block.ndim == 4:
                small = F.interpolate(rows[:, None], size=block.shape[-2:], mode="area")
                edits.append(block * small)
            else:  # tokens of 2x2 latent pixels, row by row
                small = F.avg_pool2d(rows[:, None], 2).flatten(2).transpose(1, 2)
                edits.append(block * small)
        return edits

    wanted = by_hand(host_apply(host, kind, control), kind, edit)
    wanted = sampled(host, kind, wanted, latent=kind.latents(2))
    shaped = masked(host, mode(host, control, "cond rows only"), mask)
    got = sampled(host, kind, our_apply(host, kind, shaped), latent=kind.latents(2))
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


@pytest.mark.parametrize("name", ["control-lora", "t2i full", "t2i xl", "flux xlabs", "sd3.5"])
@pytest.mark.parametrize("first", ["foreign", "other"])
def test_a_chain_equals_the_hosts_own(host, kind_of, name, first):
    """T2I answers in `input` and a ControlNet in `output`: lists of unlike length meet."""
    kind, control = kind_of(name)
    others = {"control-lora": TINY, "t2i full": FOUR_LEVELS, "t2i xl": THREE_LEVELS}
    if name in others:
        ours, theirs = host.pair(others[name])
        ours = speed(host, ours, lazy=True)
    else:
        theirs = kind_of({"flux xlabs": "flux instantx", "sd3.5": "sd3"}[name])[1]
        ours = mode(host, theirs)
    wrapped = mode(host, control)

    def chain(*links):
        conditioning = kind.prompts()
        vae = {"vae": PoolingVAE(kind.latent)} if name in TRANSFORMERS else {}
        for seed, (node, link) in enumerate(links):
            conditioning = host.call(
                node,
                positive=conditioning[0], negative=conditioning[1], control_net=link,
                image=picture(seed), strength=0.5 + 0.25 * seed,
                start_percent=0.0, end_percent=1.0, **vae,
            )  # fmt: skip
        return sampled(host, kind, conditioning)

    def ordered(a, b):
        return (a, b) if first == "foreign" else (b, a)

    apply_theirs, apply_ours = "ControlNetApplyAdvanced", "CNPP_Apply"
    wanted = chain(*ordered((apply_theirs, control), (apply_theirs, theirs)))
    assert torch.equal(chain(*ordered((apply_ours, wrapped), (apply_ours, ours))), wanted)
    mixed = ordered((apply_ours, wrapped), (apply_theirs, theirs))
    assert torch.equal(chain(*mixed), wanted)


def test_the_window_strength_and_schedule_hold_together(host, kind_of):
    kind, control = kind_of("flux instantx")
    settings = {"start_percent": 0.2, "end_percent": 0.7, "strength": 0.75}

    def half(blocks, *_):
        return times(blocks, [0.5] * len(blocks))

    wanted = by_hand(host_apply(host, kind, control, **settings), kind, half)
    conditioning = our_apply(
        host, kind, control, scales=schedule(host, "0%: 0.5", "step"), **settings
    )
    got = sampled(host, kind, conditioning, steps=6)
    assert torch.equal(got, sampled(host, kind, wanted, steps=6))


@pytest.mark.parametrize("name", ["t2i full", "control-lora", "flux instantx", "qwen instantx"])
def test_a_hint_of_another_aspect_is_fitted_as_said(host, kind_of, name):
    kind, control = kind_of(name)
    image = picture(height=96, width=200)
    (shaped,) = host.call(
        "CNPP_HintFit", control_net=control, fit="stretch", resampling="nearest", follow_area=True
    )
    place = host.pack("cnpp_core.control.hints").HintFit("stretch").place
    by_hand = place(image.movedim(-1, 1), (128, 128)).movedim(1, -1)
    wanted = sampled(host, kind, host_apply(host, kind, control, image=by_hand))
    assert torch.equal(sampled(host, kind, our_apply(host, kind, shaped, image=image)), wanted)
