"""A UNet whose features another node shrinks: a shaped control shrinks with them."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from controlnet_pp.tests.host.control.foreign_unets import FOUR_LEVELS
from controlnet_pp.tests.host.control.shaping import block_scales, control_in, mode, sampled, speed
from controlnet_pp.tests.host.harness import TINY, TINY_SD15, TINY_XL, apply, prompt
from controlnet_pp.tests.host.residuals import edited

LATENT = torch.zeros(1, 4, 32, 32)
HALF = (0.5,) * 13


def deep_shrink(host, layout, block=3, factor=2.0, **options):
    """A model behind the host's PatchModelAddDownscale."""
    inputs = {
        "model": host.model(layout),
        "block_number": block,
        "downscale_factor": factor,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "downscale_after_skip": True,
        "downscale_method": "bicubic",
        "upscale_method": "bicubic",
    } | options
    from comfy_extras import nodes_model_downscale

    node = nodes_model_downscale.PatchModelAddDownscale
    if hasattr(node, "define_schema"):
        return node.execute(**inputs).result[0]
    return getattr(node(), node.FUNCTION)(**inputs)[0]


def dropped(caplog):
    return [r for r in caplog.records if "control could not be applied" in r.getMessage()]


@pytest.mark.parametrize("after_skip", [True, False])
def test_a_shaped_control_shrinks_with_the_features_from_the_block_on(host, caplog, after_skip):
    first = 4 if after_skip else 3  # the first skip connection that is smaller

    def shrunk(blocks, *_):
        half = [block * 0.5 for block in blocks]
        return [
            block if i < first else F.interpolate(block, scale_factor=0.5, mode="area")
            for i, block in enumerate(half)
        ]

    model = deep_shrink(host, TINY_SD15, downscale_after_skip=after_skip)
    ours, _ = host.pair(TINY_SD15)
    conditioning = apply(host, ours, TINY_SD15, scales=block_scales(host, *HALF))
    with caplog.at_level(logging.WARNING):
        got = host.sample(model, *conditioning, latent=LATENT, steps=2)
    assert dropped(caplog) == []
    wanted = host.sample(model, *edited(host, shrunk, TINY_SD15), latent=LATENT, steps=2)
    assert torch.equal(got, wanted)


def test_a_neutral_control_meets_the_hosts_limit(host, caplog):
    """So that this is noticed if the host learns to fit residuals itself."""
    ours, _ = host.pair(TINY_SD15)
    with caplog.at_level(logging.WARNING):
        host.sample(
            deep_shrink(host, TINY_SD15), *apply(host, ours, TINY_SD15), latent=LATENT, steps=1
        )
    assert len(dropped(caplog)) == 9


def test_it_shrinks_by_any_factor_in_a_chain_lazily_and_within_a_window(host, caplog):
    ours, theirs = host.pair(TINY_XL)
    model = deep_shrink(host, TINY_XL, block=2, factor=1.7, end_percent=0.5)
    positive, negative = apply(host, theirs, TINY_XL)
    lazy = speed(host, mode(host, ours), lazy=True, reuse_every=2)
    conditioning = apply(host, lazy, TINY_XL, positive=positive, negative=negative)
    with caplog.at_level(logging.WARNING):
        latent = host.sample(model, *conditioning, latent=torch.zeros(1, 4, 26, 18), steps=4)
    assert dropped(caplog) == []
    assert latent.isfinite().all()


def test_nothing_changes_where_the_features_keep_their_size(host):
    ours, theirs = host.pair(TINY)
    model = host.model(TINY).clone()
    seen = []
    model.set_model_input_block_patch(lambda h, options: (seen.append(dict(options)), h)[1])
    got = host.sample(model, *apply(host, mode(host, ours)))
    assert torch.equal(got, sampled(host, apply(host, theirs, node="ControlNetApplyAdvanced")))
    assert seen
    host.sample(model, *apply(host, theirs))
    patches = model.model_options["transformer_options"]["patches"]
    assert len(patches["input_block_patch"]) == 1, "the model's own options were written to"


def test_a_compiled_unet_is_not_watched(host):
    """It would have to be compiled anew for what looks at it."""
    control = control_in(apply(host, mode(host, host.pair(TINY)[0])))
    model = host.model(TINY).model
    control.pre_run(model, model.model_sampling.percent_to_sigma)
    compiled = {"wrappers": {"apply_model": {"torch.compile": [print]}}}
    for options, watched in (({}, True), (compiled, False)):
        given = {"cond_or_uncond": [0]} | options
        x, context = torch.zeros(1, 4, 16, 16), prompt(TINY, 1)[0][0]
        with torch.inference_mode():
            control.get_control(x, torch.ones(1), {"c_crossattn": context}, 1, given)
        assert ("diffusion_model" in given.get("wrappers", {})) is watched


def test_an_adapter_is_refused_by_name(host, kind_of):
    _, adapter = kind_of("t2i full")
    model = deep_shrink(host, FOUR_LEVELS)
    conditioning = apply(host, mode(host, adapter), FOUR_LEVELS)
    with pytest.raises(ValueError, match=r"Deep Shrink.*T2I adapter"):
        host.sample(model, *conditioning, latent=LATENT, steps=1)


def test_residual_energy_measures_what_was_fitted(host):
    ours, _ = host.pair(TINY_SD15)
    (model, energy) = host.call("CNPP_ResidualEnergy", model=deep_shrink(host, TINY_SD15))
    host.sample(model, *apply(host, mode(host, ours), TINY_SD15), latent=LATENT, steps=1)
    for found in energy.table.sides.values():
        assert found.isfinite().all()
        assert (found > 0).all()
