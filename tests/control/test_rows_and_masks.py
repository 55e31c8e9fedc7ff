"""Which rows and which part of the picture a control acts on."""

import pytest
import torch
from controlnet_pp.cnpp_core.control.masks import BlockMasks, prepare_mask, resize_mask
from controlnet_pp.cnpp_core.control.rows import CONTROL_MODES, RowScales
from controlnet_pp.cnpp_core.control.scales import BlockScales, ScalePreset
from controlnet_pp.cnpp_core.control.shape import ControlShape
from hypothesis import given
from hypothesis import strategies as st

SOFT = tuple(0.825 ** (12 - i) for i in range(13))


@pytest.mark.parametrize(
    ("mode", "cond", "uncond"),
    [
        ("balanced", (1.0,) * 13, (1.0,) * 13),
        ("prompt is more important", SOFT, SOFT),
        ("control is more important", SOFT, (0.0,) * 13),
        ("cond rows only", (1.0,) * 13, (0.0,) * 13),
    ],
)
def test_the_modes_are_the_formulas_of_the_help_page(mode, cond, uncond):
    rows = CONTROL_MODES[mode]
    assert rows.resolve("cond", 13).values == pytest.approx(cond)
    assert rows.resolve("uncond", 13).values == pytest.approx(uncond)


def test_only_balanced_is_neutral():
    assert {name for name, rows in CONTROL_MODES.items() if rows.is_neutral} == {"balanced"}
    assert not RowScales().times(None, ScalePreset("detail")).is_neutral


def test_scales_modes_and_further_row_scales_multiply():
    own = BlockScales((1.0, 2.0, 3.0))
    rows = CONTROL_MODES["balanced"].times(ScalePreset("uniform", 0.5), None)
    shape = ControlShape(scales=own, rows=rows)
    assert shape.of_rows("cond", 3, 0.0).values == (0.5, 1.0, 1.5)
    assert shape.of_rows("uncond", 3, 0.0).values == own.values


def left_half(height=8, width=8):
    mask = torch.zeros(height, width)
    mask[:, : width // 2] = 1.0
    return mask


@pytest.mark.parametrize(
    ("target", "covered"),
    [
        ("all blocks", set(range(13))),
        ("detail", set(range(6))),
        ("structure", set(range(6, 12))),
        ("middle", {12}),
        (3, {3}),
    ],
)
def test_a_mask_is_for_the_blocks_it_names(target, covered):
    masks = BlockMasks().with_layer(left_half(), target)
    assert {i for i in range(13) if masks.of_block(i, 13) is not None} == covered


def test_the_last_mask_of_a_block_counts():
    masks = BlockMasks().with_layer(left_half()).with_layer(torch.ones(8, 8), "middle")
    assert masks.of_block(12, 13) is None
    assert masks.of_block(0, 13) is not None


def test_a_mask_of_ones_passes_everything_and_one_of_zeros_mutes():
    assert BlockMasks().with_layer(torch.ones(4, 4)).of_block(0, 5) is None
    masks = BlockMasks().with_layer(torch.zeros(4, 4), "detail")
    assert masks.muted(13) == frozenset(range(6))
    scales = ControlShape(masks=masks).of_rows("cond", 13, 0.0)
    assert scales.asked == frozenset(range(6, 13))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(1, 1, 4, 4), r"shape \(1, 1, 4, 4\)"),
        (torch.ones(0, 4), r"shape \(1, 0, 4\)"),
        (torch.full((4, 4), 2.0), "from 2 to 2; 0 to 1"),
        (torch.full((4, 4), float("nan")), "0 to 1"),
    ],
)
def test_a_mask_that_is_none_is_refused(mask, words):
    with pytest.raises(ValueError, match=words):
        BlockMasks().with_layer(mask)


def test_a_mask_for_a_block_that_is_not_there_is_refused():
    masks = BlockMasks().with_layer(left_half(), 12)
    masks.require_blocks(13)
    with pytest.raises(ValueError, match=r"block 12, the ControlNet has blocks 0 to 9"):
        masks.require_blocks(10)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20),
    st.sampled_from([0.0, 1.0]),
)  # fmt: skip
def test_a_constant_mask_stays_exactly_constant_at_every_size(height, width, h, w, value):
    resized = resize_mask(torch.full((1, height, width), value), (h, w))
    assert resized.shape == (1, h, w)
    assert (resized == value).all()


def test_a_half_mask_at_half_size_is_the_half_mask():
    assert torch.equal(resize_mask(left_half(16, 16)[None], (8, 8))[0], left_half())


def test_an_area_sees_its_own_part_of_the_mask():
    mask = torch.arange(64.0).view(1, 8, 8) / 64
    part = resize_mask(mask, (4, 4), full=(8, 8), area=(4, 4, 2, 3))
    assert torch.equal(part, mask[:, 2:6, 3:7])


def test_inverting_and_feathering():
    mask = left_half(16, 16)[None]
    assert torch.equal(prepare_mask(mask, invert=True), 1 - mask)
    soft = prepare_mask(mask, feather=2.0)
    assert (soft[0, 0].diff() <= 1e-6).all(), "a soft border falls without ripples"
    assert soft[0, 0, 0] > 0.98
    assert soft[0, 0, 15] < 0.02
    assert soft.mean() == pytest.approx(0.5, abs=1e-3)
    assert torch.equal(prepare_mask(mask, feather=0.0), mask)


def test_feathering_equals_a_gaussian_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    mask = torch.rand(1, 20, 30, generator=torch.Generator().manual_seed(0))
    expected = ndimage.gaussian_filter(mask[0].numpy(), 1.5, mode="nearest", radius=5)
    assert torch.allclose(prepare_mask(mask, feather=1.5)[0], torch.from_numpy(expected), atol=1e-5)
