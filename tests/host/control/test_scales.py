"""Block scales in the running host, against the host's own control with edited residuals."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import block_scales, control_in
from controlnet_pp.tests.host.harness import TINY, TINY_SD15, TINY_XL, apply, prompt
from controlnet_pp.tests.host.residuals import edited


def only(block):
    """An edit of the host's residuals that removes all blocks but one."""
    return lambda blocks, *_: [b if i == block else None for i, b in enumerate(blocks)]


@pytest.mark.parametrize(
    ("layout", "block"),
    [(TINY, 0), (TINY, 4), (TINY_SD15, 5), (TINY_SD15, 12), (TINY_XL, 0), (TINY_XL, 9)],
    ids=["first", "middle", "sd15 5", "sd15 middle", "sdxl 0", "sdxl middle"],
)
def test_one_block_alone_equals_the_host_with_the_others_removed(host, layout, block):
    ours, _ = host.pair(layout)
    count = ours.control_model.config.blocks
    chosen = block_scales(host, *(float(i == block) for i in range(count)))
    latent = host.sample(host.model(layout), *apply(host, ours, layout, scales=chosen))
    wanted = host.sample(host.model(layout), *edited(host, only(block), layout))
    assert (latent - wanted).abs().max() == 0.0


def test_each_scale_multiplies_its_own_block(host):
    values = (0.25, 2.0, 0.0, 0.5, 1.0)  # powers of two commute with the strength exactly

    def times(blocks, *_):
        return [b * v for b, v in zip(blocks, values, strict=True)]

    ours, _ = host.pair(TINY)
    latent = host.sample(host.model(TINY), *apply(host, ours, scales=block_scales(host, *values)))
    wanted = host.sample(host.model(TINY), *edited(host, times))
    assert (latent - wanted).abs().max() == 0.0


def test_scales_of_one_equal_no_scales(host):
    ours, _ = host.pair(TINY)
    model = host.model(TINY)
    neutral = host.sample(model, *apply(host, ours, scales=block_scales(host, *[1.0] * 5)))
    assert torch.equal(neutral, host.sample(model, *apply(host, ours)))


def test_all_scales_zero_equal_no_control(host):
    ours, _ = host.pair(TINY)
    model = host.model(TINY)
    mute = host.sample(model, *apply(host, ours, scales=block_scales(host, *[0.0] * 5)))
    assert torch.equal(mute, host.sample(model, prompt(TINY, 1), prompt(TINY, 2)))


def test_the_sliders_arrive_in_the_order_of_the_blocks(host):
    for node, count in (("CNPP_BlockScalesSD15", 13), ("CNPP_BlockScalesSDXL", 10)):
        names = [*(f"in_{i}" for i in range(count - 1)), "middle"]
        (given,) = host.call(node, **{name: float(i) for i, name in enumerate(names)})
        assert given.resolve(count).values == tuple(map(float, range(count)))


def test_a_preset_fits_any_number_of_blocks_and_scales_with_its_strength(host):
    (preset,) = host.call("CNPP_BlockScalePreset", preset="mid only", strength=0.5)
    ours, _ = host.pair(TINY)
    model = host.model(TINY)
    latent = host.sample(model, *apply(host, ours, scales=preset))
    listed = block_scales(host, 0.0, 0.0, 0.0, 0.0, 0.5)
    wanted = host.sample(model, *apply(host, ours, scales=listed))
    assert torch.equal(latent, wanted)


def test_apply_leaves_the_control_it_was_given_alone(host):
    ours, _ = host.pair(TINY)
    before = dict(vars(ours))
    first = apply(host, ours, scales=block_scales(host, 1.0, 0.0, 0.0, 0.0, 0.0))
    second = apply(host, ours, scales=block_scales(host, 0.0, 0.0, 0.0, 0.0, 1.0))
    assert vars(ours) == before
    model = host.model(TINY)
    alone = host.sample(model, *first)
    host.sample(model, *second)
    assert torch.equal(host.sample(model, *first), alone)


def test_a_copy_carries_the_scales_and_shares_no_setting(host):
    ours, _ = host.pair(TINY)
    middle = block_scales(host, 0.0, 0.0, 0.0, 0.0, 1.0)
    control = control_in(apply(host, ours, scales=middle))
    copy = control.copy()
    assert copy.shape == control.shape
    assert copy.strength == control.strength
    copy = copy.shaped(scales=None)
    copy.set_extra_arg("control_type", [1])
    copy.extra_conds.append("other")
    assert control.shape.scales is not None
    assert "control_type" not in control.extra_args
    assert "other" not in control.extra_conds


def test_a_clone_for_another_device_keeps_the_scales_and_owns_its_weights(host):
    ours, _ = host.pair(TINY)
    if not hasattr(ours, "multigpu_clones"):
        pytest.skip("this ComfyUI has no clones per device")
    middle = block_scales(host, 0.0, 0.0, 0.0, 0.0, 1.0)
    control = control_in(apply(host, ours, scales=middle))
    clone = control.deepclone_multigpu(torch.device("cpu"))
    assert clone.shape == control.shape
    (a, *_), (b, *_) = control.control_model.parameters(), clone.control_model.parameters()
    assert torch.equal(a, b)
    assert a.data_ptr() != b.data_ptr()
