"""Union conditions with images of their own under packs that cut the control image, and without."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from controlnet_pp.tests.host.control.packs import (
    boxes,
    pixels,
    tiled_diffusion,
    tiled_ksampler,
    ultimate_sd_upscale,
)
from controlnet_pp.tests.host.control.shaping import control_in, embedded_hints
from controlnet_pp.tests.host.control.test_union_types import (
    CANNY,
    DEPTH,
    UNION,
    hosts_own,
    loaded,
    typed,
)
from controlnet_pp.tests.host.harness import apply, picture

EMPTY = torch.zeros(1, 4, 16, 16)
TILES = boxes(16, 16, 8)
WAYS = {
    "TiledDiffusion": lambda host, conditioning: tiled_diffusion(
        host, host.model(UNION), conditioning, together=1, latent=EMPTY, steps=1
    ),
    "TiledKSampler": lambda host, conditioning: tiled_ksampler(
        host, host.model(UNION), conditioning, EMPTY, steps=1
    ),
    "Ultimate SD Upscale": lambda host, conditioning: ultimate_sd_upscale(
        host, host.model(UNION), conditioning, EMPTY, steps=1
    ),
}


def both(host, a, b):
    """CANNY reads Apply's image a, DEPTH one of its own."""
    control = typed(host, typed(host, loaded(host), CANNY), DEPTH, image=b)
    return apply(host, control, UNION, image=a)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_condition_is_cut_like_the_applied_image(host, way):
    a, b = picture(seed=31), picture(seed=32)
    with embedded_hints(loaded(host).control_model) as seen:
        way(host, both(host, a, b))
    calls = len(seen) // (2 * len(TILES))  # both prompts at once, or one after the other
    assert calls in (1, 2)
    cut = [(image.movedim(-1, 1), pixels(tile)) for tile in TILES for image in (a, b) * calls]
    wanted = [hint[(..., *place)] for hint, place in cut]
    for got, expected in zip(seen, wanted, strict=True):
        assert torch.equal(got[:1], expected)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_images_of_unequal_size_are_refused_by_name_in_tiles(host, way):
    conditioning = both(host, picture(), picture(height=96, width=80))
    with pytest.raises(ValueError, match=r"Union Control Type can't act.*all of them one size"):
        way(host, conditioning)


def test_images_of_unequal_size_are_fitted_each_by_itself(host):
    """As ever: the one is cropped to the picture in height, the other in width."""
    a, b = picture(height=128, width=256), picture(seed=9, height=256, width=128)
    with embedded_hints(loaded(host).control_model) as seen:
        host.sample(host.model(UNION), *both(host, a, b), steps=1)
    wanted = (a[:, :, 64:192], b[:, 64:192])
    for got, expected in zip(seen, wanted, strict=True):
        assert torch.equal(got[:1], F.interpolate(expected.movedim(-1, 1), (128, 128)))


# Without images of their own, conditions need nothing but the host's class.


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_type_keeps_the_hosts_own_class(host, weight):
    for control in (loaded(host), hosts_own(host))[: 2 if weight == 1.0 else 1]:
        one = typed(host, control, CANNY, weight)
        assert type(one) is type(control_in(apply(host, one, UNION))) is type(control)


def test_several_types_of_one_image_keep_it_too_and_read_it_each(host):
    two = typed(host, typed(host, loaded(host), CANNY, 0.5), DEPTH)
    image = picture(seed=31)
    conditioning = apply(host, two, UNION, image=image)
    assert type(control_in(conditioning)) is type(loaded(host))
    got = host.sample(host.model(UNION), *conditioning, steps=2)
    given_twice = typed(host, typed(host, loaded(host), CANNY, 0.5), DEPTH, image=image)
    wanted = host.sample(host.model(UNION), *apply(host, given_twice, UNION, image=image), steps=2)
    assert torch.equal(got, wanted)


def test_weight_zero_everywhere_is_silent_in_the_hosts_apply_as_well(host):
    silent = typed(host, loaded(host), CANNY, 0.0).copy().copy()
    conditioning = apply(host, silent, UNION, node="ControlNetApplyAdvanced")
    bare = [
        [[prompt, {k: v for k, v in o.items() if k != "control"}] for prompt, o in side]
        for side in conditioning
    ]
    model = host.model(UNION)
    assert torch.equal(
        host.sample(model, *conditioning, steps=2), host.sample(model, *bare, steps=2)
    )


def test_a_weight_of_zero_is_forgotten_when_a_condition_follows(host):
    after = typed(host, typed(host, loaded(host), DEPTH, 0.0), CANNY)
    assert after.extra_args == typed(host, loaded(host), CANNY).extra_args
