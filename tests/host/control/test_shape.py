"""Control shaped by time, row and place, against the host's own residuals edited by hand."""

from __future__ import annotations

import pytest
import torch
from harness import TINY, TINY_SD15, apply, captured, edited, evaluations, picture, prompt

CLOSE = 2e-4  # a factor applied in another order, or rows computed in a smaller batch


def sampled(host, conditionings, **sampling):
    return host.sample(host.model(sampling.pop("layout", TINY)), *conditionings, **sampling)


def schedule(host, text, interpolation="linear", **inputs):
    return host.call("CNPP_ScaleSchedule", schedule=text, interpolation=interpolation, **inputs)[0]


def percent(host, t):
    """How far a sampling is, by the model's own timesteps: 999 at the start, 0 at the end."""
    sampling = host.model(TINY).model.model_sampling
    return float(1 - sampling.timestep(t[:1])[0] / 999)


# Time


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_2s_ancestral", "uni_pc"])
def test_a_schedule_is_a_function_of_the_calls_sigma_for_every_sampler(host, sampler):
    def fade(blocks, _x, t, _options):
        done = percent(host, t)
        return [b * (1.0 - 0.8 * min(done / 0.7, 1.0)) for b in blocks]

    ours, _ = host.pair(TINY)
    conditioning = apply(host, ours, scales=schedule(host, "0%: 1; 70%: 0.2"))
    latent = sampled(host, conditioning, sampler=sampler, steps=5)
    wanted = sampled(host, edited(host, fade), sampler=sampler, steps=5)
    assert (latent - wanted).abs().max() < CLOSE * wanted.abs().max()
    constant = sampled(host, apply(host, ours), sampler=sampler, steps=5)
    assert (latent - constant).abs().max() > 10 * CLOSE * wanted.abs().max()


def test_a_schedule_of_block_curves_moves_each_block_on_its_own(host):
    def cross_fade(blocks, _x, t, _options):
        done = percent(host, t)
        return [b * (1 - done if i < 2 else done) for i, b in enumerate(blocks)]

    ours, _ = host.pair(TINY)
    conditioning = apply(host, ours, scales=schedule(host, "0%: detail; 100%: structure"))
    wanted = sampled(host, edited(host, cross_fade), steps=5)
    assert (sampled(host, conditioning, steps=5) - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_the_window_holds_beside_a_schedule(host):
    def half(blocks, *_):
        return [b * 0.5 for b in blocks]

    ours, _ = host.pair(TINY)
    window = {"start_percent": 0.3, "end_percent": 0.7}
    conditioning = apply(host, ours, scales=schedule(host, "0%: 0.5"), **window)
    wanted = sampled(host, edited(host, half, **window), steps=6)
    assert (sampled(host, conditioning, steps=6) - wanted).abs().max() == 0.0


def test_chained_schedule_nodes_keep_each_others_key_frames(host):
    (preset,) = host.call("CNPP_BlockScalePreset", preset="structure", strength=0.5)
    first = schedule(host, "0%: scales", scales=preset)
    both = schedule(host, "50%: 1", "step", previous=first)
    assert both.resolve(5, 0.49).values == (0.0, 0.0, 0.5, 0.5, 0.5)
    assert both.resolve(5, 0.51).values == (1.0,) * 5


def test_nothing_is_computed_while_a_schedule_is_at_zero(host):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, ours, scales=schedule(host, "0%: 1; 50%: 0", "step"))
    with evaluations(ours.control_model) as counted:
        sampled(host, conditioning, steps=8)
    assert len(counted) == 4


# Rows


def mode(host, control, name="balanced", cond=1.0, uncond=1.0, **scales):
    return host.call(
        "CNPP_ControlMode",
        control_net=control,
        mode=name,
        cond_strength=cond,
        uncond_strength=uncond,
        **scales,
    )[0]


def by_side(cond, uncond):
    """An edit that multiplies the rows of each side; index 1 is the negative prompt's."""

    def edit(blocks, x, _t, options):
        sides = options["cond_or_uncond"]
        rows = x.shape[0] // len(sides)
        edits = []
        for i, block in enumerate(blocks):
            factors = torch.tensor([(uncond if s else cond)(i) for s in sides])
            edits.append(block * factors.repeat_interleave(rows).view(-1, 1, 1, 1))
        return edits

    return edit


SOFT = [0.825 ** (12 * (1 - i / 4)) for i in range(5)]
MODES = {
    "balanced": (lambda i: 1.0, lambda i: 1.0),
    "prompt is more important": (lambda i: SOFT[i], lambda i: SOFT[i]),
    "control is more important": (lambda i: SOFT[i], lambda i: 0.0),
    "cond rows only": (lambda i: 1.0, lambda i: 0.0),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODES)
def test_a_mode_is_its_formula_on_the_hosts_residuals(host, name, batch):
    ours, _ = host.pair(TINY)
    latent = torch.zeros(batch, 4, 16, 16)
    got = sampled(host, apply(host, mode(host, ours, name)), latent=latent)
    wanted = sampled(host, edited(host, by_side(*MODES[name])), latent=latent)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_balanced_is_the_host_bit_for_bit(host):
    ours, theirs = host.pair(TINY)
    wanted = sampled(host, apply(host, theirs, node="ControlNetApplyAdvanced"))
    assert torch.equal(sampled(host, apply(host, mode(host, ours))), wanted)


def test_each_side_takes_scales_of_its_own(host):
    ours, _ = host.pair(TINY)
    (detail,) = host.call("CNPP_BlockScalePreset", preset="detail", strength=1.0)
    shaped = mode(host, ours, cond=0.5, uncond=0.25, uncond_scales=detail)
    edit = by_side(lambda i: 0.5, lambda i: 0.25 * (i < 2))
    wanted = sampled(host, edited(host, edit))
    got = sampled(host, apply(host, shaped))
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


@pytest.mark.parametrize("batch", [1, 2])
def test_muted_rows_are_not_computed(host, batch):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, mode(host, ours, "cond rows only"))
    with evaluations(ours.control_model) as rows:
        sampled(host, conditioning, latent=torch.zeros(batch, 4, 16, 16), steps=3)
    assert rows == [batch] * 3


def split_calls(monkeypatch, host, when):
    """Let the host find too little memory for one batch of both sides, at the calls `when` says."""
    base, calls = host.model(TINY).model, []

    def memory_required(shape, **_options):
        if shape[0] > 1:
            calls.append(1)
        return 1e20 if shape[0] > 1 and when(len(calls)) else 0.0

    monkeypatch.setattr(base, "memory_required", memory_required)
    return calls


@pytest.mark.parametrize("name", ["balanced", "control is more important"])
@pytest.mark.parametrize(
    "when", [lambda n: True, lambda n: n % 2 == 0], ids=["always", "every other step"]
)
def test_the_result_does_not_depend_on_how_the_host_splits_the_batch(host, monkeypatch, name, when):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, mode(host, ours, name), scales=schedule(host, "0%: 1; 90%: 0.3"))
    together = sampled(host, conditioning, steps=6)
    calls = split_calls(monkeypatch, host, when)
    apart = sampled(host, conditioning, steps=6)
    assert len(calls) > 3
    assert (together - apart).abs().max() < CLOSE * together.abs().max()


def test_the_negative_prompt_is_known_by_name_where_it_comes_first(host):
    """A guider of two conditionings puts the negative prompt at index 0."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    ours, theirs = host.pair(TINY)
    model = host.model(TINY)

    def guided(positive, negative):
        guider = Guider_DualCFG(model)
        guider.set_conds(positive, prompt(TINY, 5), negative)
        guider.set_cfg(2.0, 3.0)
        sampler = comfy.samplers.sampler_object("euler")
        sigmas = comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "normal", 3
        )
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True)

    got = guided(*apply(host, mode(host, ours, "cond rows only")))
    # The same thing in the host's words: the control on the positive prompt alone.
    positive, _ = apply(host, theirs, node="ControlNetApplyAdvanced")
    wanted = guided(positive, prompt(TINY, 2))
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_cfg_one_drops_the_uncond_rows_and_nothing_else(host):
    ours, _ = host.pair(TINY)
    shaped = mode(host, ours, "cond rows only")
    plain = sampled(host, apply(host, ours), cfg=1.0)
    assert torch.equal(sampled(host, apply(host, shaped), cfg=1.0), plain)


# Place


def masked(host, control, mask, blocks="all blocks", block=0, invert=False, feather=0.0):
    return host.call(
        "CNPP_BlockMasks",
        control_net=control,
        mask=mask,
        blocks=blocks,
        block=block,
        invert=invert,
        feather=feather,
    )[0]


def left(size=128):
    mask = torch.zeros(1, size, size)
    mask[..., : size // 2] = 1.0
    return mask


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


def area_prompts(host, *areas):
    """A prompt per (width, height, x, y) in pixels."""
    prompts = []
    for i, (width, height, x, y) in enumerate(areas):
        (part,) = host.call(
            "ConditioningSetArea",
            conditioning=prompt(TINY, 20 + i), width=width, height=height, x=x, y=y, strength=1.0,
        )  # fmt: skip
        prompts += part
    return prompts


HALVES = ((64, 128, 0, 0), (64, 128, 64, 0))


def test_a_mask_lies_on_the_picture_and_not_on_the_area(host):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, masked(host, ours, left()), positive=area_prompts(host, *HALVES))
    calls = captured(host, host.model(TINY), *conditioning, steps=1)
    seen = []
    for call in calls:
        rows = call["x"].shape[0] // len(call["cond_or_uncond"])
        block = call["control"]["output"][0]
        for chunk in block.split(rows):
            seen.append((chunk.shape[-1], bool(chunk[..., :4].any()), bool(chunk[..., -4:].any())))
    # Both sides see both areas: the left one with control, the right one without.
    assert sorted(set(seen)) == [(8, False, False), (8, True, True), (16, True, False)]


def fitted(host, control, fit="crop", resampling="nearest", follow_area=False):
    return host.call(
        "CNPP_HintFit",
        control_net=control,
        fit=fit,
        resampling=resampling,
        follow_area=follow_area,
    )[0]


def cut(width, height, x, y):
    return picture()[:, y : y + height, x : x + width]


def test_areas_see_their_own_part_of_the_hint(host):
    """The reference: each area with a control of the host's own, whose hint was cut by hand."""
    ours, theirs = host.pair(TINY)
    positive = area_prompts(host, *HALVES)
    shaped = fitted(host, ours, follow_area=True)
    got = host.sample(
        host.model(TINY), *apply(host, shaped, positive=positive, negative=prompt(TINY, 2))
    )
    by_hand = []
    for part, area in zip(positive, HALVES, strict=True):
        done, _ = apply(
            host, theirs, positive=[part], image=cut(*area), node="ControlNetApplyAdvanced"
        )
        by_hand += done
    # Areas make the host cut the negative prompt as well; there the hint is cut by area too.
    negative = []
    for width, height, x, y in HALVES:
        (part,) = host.call(
            "ConditioningSetArea",
            conditioning=prompt(TINY, 2), width=width, height=height, x=x, y=y, strength=1.0,
        )  # fmt: skip
        _, done = apply(
            host, theirs, negative=part, image=cut(width, height, x, y),
            node="ControlNetApplyAdvanced",
        )  # fmt: skip
        negative += done
    _, whole = apply(host, theirs, node="ControlNetApplyAdvanced")
    wanted = host.sample(host.model(TINY), by_hand, [*whole, *negative])
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()
    squeezed = host.sample(host.model(TINY), *apply(host, ours, positive=positive))
    assert (got - squeezed).abs().max() > 100 * CLOSE


def test_two_areas_embed_their_hints_once_each_and_not_at_every_step(host):
    ours, _ = host.pair(TINY)
    positive = [*area_prompts(host, (64, 128, 0, 0), (128, 64, 0, 64)), *prompt(TINY, 1)]
    embedded = []
    handle = ours.control_model.input_hint_block[0].register_forward_hook(
        lambda _module, inputs, _output: embedded.append(tuple(inputs[0].shape[-2:]))
    )
    try:
        for shaped in (ours, fitted(host, ours, follow_area=True)):
            embedded.clear()
            host.sample(host.model(TINY), *apply(host, shaped, positive=positive), steps=5)
            assert sorted(embedded) == [(64, 128), (128, 64), (128, 128)]
    finally:
        handle.remove()


def test_an_area_that_comes_behind_the_control_is_refused_by_name(host):
    ours, _ = host.pair(TINY)
    positive, negative = apply(host, fitted(host, ours, follow_area=True))
    (positive,) = host.call(
        "ConditioningSetArea",
        conditioning=positive, width=64, height=128, x=0, y=0, strength=1.0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="Set the area first"):
        host.sample(host.model(TINY), positive, negative)


def test_a_mask_with_bounds_is_an_area_too(host):
    ours, _ = host.pair(TINY)
    mask = torch.zeros(1, 128, 128)
    mask[..., 64:] = 1.0
    (positive,) = host.call(
        "ConditioningSetMask",
        conditioning=prompt(TINY, 1), mask=mask, strength=1.0, set_cond_area="mask bounds",
    )  # fmt: skip
    hints = []
    handle = ours.control_model.input_hint_block[0].register_forward_hook(
        lambda _module, inputs, _output: hints.append(inputs[0][0])
    )
    try:
        host.sample(
            host.model(TINY),
            *apply(host, fitted(host, ours, follow_area=True), positive=positive),
        )
    finally:
        handle.remove()
    parts = {tuple(hint.shape[-2:]): hint for hint in hints}
    assert torch.equal(parts[128, 64], picture()[0].movedim(-1, 0)[..., 64:])


def test_an_area_is_known_even_where_the_hosts_own_node_applies_the_control(host):
    ours, _ = host.pair(TINY)
    positive = area_prompts(host, *HALVES)
    shaped = fitted(host, ours, follow_area=True)
    a = host.sample(host.model(TINY), *apply(host, shaped, positive=positive))
    b = host.sample(
        host.model(TINY),
        *apply(host, shaped, positive=positive, node="ControlNetApplyAdvanced"),
    )
    assert torch.equal(a, b)


# Hints


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
