"""Rows of residuals apart and together again, and numbers that are none."""

import pytest
import torch
from controlnet_pp.cnpp_core.control.residuals import ControlResiduals
from controlnet_pp.cnpp_core.control.scales import BlockScales
from hypothesis import given
from hypothesis import strategies as st


def residuals(rows, mute=()):
    generator = torch.Generator().manual_seed(rows)
    sizes = (4, 4, 2)
    return ControlResiduals(
        [
            None if i in mute else torch.randn(rows, 3, n, n, generator=generator)
            for i, n in enumerate(sizes)
        ]
    )


def same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


@given(st.integers(1, 4), st.integers(1, 3), st.sets(st.integers(0, 2), max_size=2))
def test_chunks_join_to_what_they_came_from(chunks, images, mute):
    whole = residuals(chunks * images, mute)
    parts = [whole.chunk(i, chunks) for i in range(chunks)]
    assert same(ControlResiduals.joined(parts), whole)


@given(st.permutations(range(4)), st.integers(1, 4), st.integers(1, 3))
def test_spread_puts_chunks_at_their_places_and_zero_elsewhere(order, count, images):
    indices = sorted(order[:count])
    held = residuals(count * images)
    spread = held.spread(indices, 4)
    for place in range(4):
        part = spread.chunk(place, 4)
        if place in indices:
            assert same(part, held.chunk(indices.index(place), count))
        else:
            assert all(not block.any() for block in part)


def test_each_chunk_has_scales_of_its_own():
    whole = residuals(4)
    scales = [BlockScales((1.0, 0.5, 0.0)), BlockScales((2.0, 0.0, 0.0))]
    scaled = whole.scaled_by_chunk(scales)
    assert torch.allclose(scaled.blocks[0][2:], 2 * whole.blocks[0][2:])
    assert torch.equal(scaled.blocks[0][:2], whole.blocks[0][:2])
    assert torch.allclose(scaled.blocks[1][:2], 0.5 * whole.blocks[1][:2])
    assert not scaled.blocks[1][2:].any()
    assert scaled.blocks[2] is None, "a block that no chunk wants is mute"


def test_nothing_is_written_into_the_tensors_of_others():
    whole = residuals(4)
    kept = [block.clone() for block in whole]
    whole.scaled_by_chunk([BlockScales((0.5,) * 3), BlockScales((2.0,) * 3)])
    whole.spread([1, 3], 4)
    ControlResiduals.joined([whole.chunk(0, 2), whole.chunk(1, 2)])
    assert same(whole, kept)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("block", "name"), [(1, "input block 1"), (2, "the middle block")])
def test_a_number_that_is_none_is_reported_with_its_block(value, block, name):
    bad = residuals(2)
    bad.blocks[block][0, 0, 1, 1] = value
    with pytest.raises(ValueError, match=f"infinite residuals at {name}\\."):
        bad.require_finite()


def test_sums_that_were_taken_earlier_tell_the_block_as_well():
    bad = residuals(2, mute={0})
    bad.blocks[1][0, 0, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="at input block 1"):
        ControlResiduals([None] * 3).require_finite(bad.sums())


def test_large_numbers_in_half_precision_are_no_infinity():
    ControlResiduals([torch.full((1, 4, 64, 64), 6e4, dtype=torch.float16)]).require_finite()
    residuals(2, mute={0, 2}).require_finite()


def test_rows_get_factors_of_their_own():
    block = torch.randn(4, 2, 3, 3)
    residuals = ControlResiduals([block, None])
    one_each = residuals.times_rows([0.0, 1.0, 2.0, 0.5])
    assert one_each.blocks[1] is None
    expected = block * torch.tensor([0.0, 1.0, 2.0, 0.5]).view(4, 1, 1, 1)
    assert torch.equal(one_each.blocks[0], expected)
    by_pair = residuals.times_rows([1.0, 3.0]).blocks[0]
    assert torch.equal(by_pair, torch.cat([block[:2], block[2:] * 3]))
    assert residuals.times_rows([1.0] * 4).blocks[0] is block
    assert residuals.times_rows([0.0] * 4).blocks == (None, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.spread([0, 2, 3], 4),
        lambda r: r.times_rows([1.0, 2.0, 3.0]),
        lambda r: r.scaled_by_chunk([BlockScales((float(i),) * 3) for i in range(3)]),
        lambda r: ControlResiduals.joined([r, ControlResiduals([None])]),
        lambda r: r.each(lambda block, _: block, [1.0, 2.0]),
    ],
    ids=["spread", "times_rows", "scaled_by_chunk", "joined", "each"],
)
def test_what_does_not_divide_or_has_another_length_is_no_answer(change):
    with pytest.raises(ValueError, match=r"shorter|longer"):
        change(residuals(2))
