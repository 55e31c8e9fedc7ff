"""Block scales: presets per family, and no silent truncation."""

import pytest
import torch
from controlnet_pp.cnpp_core.control.residuals import ControlResiduals
from controlnet_pp.cnpp_core.control.scales import PRESETS, BlockScales, ScalePreset
from controlnet_pp.cnpp_core.network.config import SD15, SDXL, NetworkConfig
from controlnet_pp.tests.source import thawed


def test_what_copies_of_a_control_share_cannot_be_changed():
    assert not thawed("cnpp_core/control")


def test_guess_mode_is_the_papers_curve_for_sd15():
    expected = [0.825 ** (12 - i) for i in range(13)]
    assert ScalePreset("guess mode").resolve(SD15.blocks).values == pytest.approx(expected)


def test_guess_mode_covers_the_same_range_for_every_depth():
    assert ScalePreset("guess mode").resolve(1).values == (1.0,)
    for blocks in (SDXL.blocks, 7, 2):
        values = ScalePreset("guess mode").resolve(blocks).values
        assert values[0] == pytest.approx(0.825**12)
        assert values[-1] == 1.0
        assert list(values) == sorted(values)


@pytest.mark.parametrize("blocks", [SD15.blocks, SDXL.blocks, 7])
def test_structure_and_detail_share_the_blocks_between_them(blocks):
    structure = ScalePreset("structure").resolve(blocks).values
    detail = ScalePreset("detail").resolve(blocks).values
    assert [a + b for a, b in zip(structure, detail, strict=True)] == [1.0] * blocks
    assert structure[-1] == 1.0
    assert detail[0] == 1.0


def test_only_uniform_at_full_strength_is_neutral():
    neutral = {name for name in PRESETS if ScalePreset(name).resolve(13).is_neutral}
    assert neutral == {"uniform"}
    for strength in (0.5, 2.0):
        assert not ScalePreset("uniform", strength).resolve(13).is_neutral


def test_a_list_of_the_wrong_length_is_refused_with_both_lengths():
    with pytest.raises(ValueError, match=r"13 numbers.*10 blocks"):
        BlockScales((1.0,) * 13).resolve(SDXL.blocks)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"No preset 'soft'.*guess mode"):
        ScalePreset("soft")


def residuals(config: NetworkConfig, batch: int = 2, size: int = 16) -> ControlResiduals:
    generator = torch.Generator().manual_seed(0)
    return ControlResiduals(
        [
            torch.randn(batch, channels, size // downscale, size // downscale, generator=generator)
            for channels, downscale in config.block_layout
        ]
    )


TINY = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(1, 1),
    context_dim=16,
)


def test_scaling_multiplies_each_block_by_its_own_number():
    control = residuals(TINY)
    factors = tuple(0.1 * (i + 2) for i in range(len(control)))
    scaled = control.scaled(BlockScales(factors))
    for block, result, factor in zip(control, scaled, factors, strict=True):
        assert torch.equal(result, block * factor)


def test_scaling_by_one_shares_the_tensors_and_by_zero_mutes_them():
    control = residuals(TINY)
    scaled = control.scaled(BlockScales((1.0,) * (len(control) - 1) + (0.0,)))
    *kept, last = scaled
    assert all(a is b for a, b in zip(control.blocks[:-1], kept, strict=True))
    assert last is None


def test_scaling_never_writes_into_the_residuals_it_was_given():
    control = residuals(TINY)
    before = [block.clone() for block in control]
    control.scaled(ScalePreset("guess mode", strength=0.3).resolve(len(control)))
    assert all(torch.equal(a, b) for a, b in zip(before, control, strict=True))


def test_a_residual_of_the_wrong_shape_is_named():
    control = list(residuals(TINY))
    control[2] = control[2][..., :-1]
    with pytest.raises(ValueError, match="input block 2 has shape"):
        ControlResiduals(control).require_shapes(TINY.block_layout, 16, 16)
    residuals(TINY).require_shapes(TINY.block_layout, 16, 16)
