"""Batches of latents and prompts that were encoded elsewhere."""

import pytest
import torch
from controlnet_pp.cnpp_core.network.blocks import timestep_embedding
from controlnet_pp.cnpp_core.training.data.encoded import Encoded, EncodedDraw, Prompt

EMPTY = Prompt(torch.zeros(1, 2, 4), torch.zeros(1, 3))


def row(
    value: float, height: int = 8, width: int = 8, scale: int = 8, channels: int = 3
) -> Encoded:
    """A row all of whose values are the same number."""

    def filled(*shape: int) -> torch.Tensor:
        return torch.full(shape, value)

    return Encoded(
        filled(1, 4, height, width),
        Prompt(filled(1, 2, 4), filled(1, 3)),
        filled(1, channels, scale * height, scale * width),
    )


ROWS = [row(n / 10) for n in range(1, 7)] + [row(n / 10, 8, 16) for n in range(7, 10)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_latents_prompt_and_condition_of_a_row_belong_together_and_a_batch_is_of_one_size():
    draw, generator, seen = EncodedDraw(ROWS, EMPTY, 3, drop_text=0.0), seeded(), set()
    for _ in range(60):
        batch = draw(generator)
        assert batch.x0.shape[0] == 3
        assert batch.hint.shape[-2:] == tuple(8 * side for side in batch.x0.shape[-2:])
        values = batch.x0[:, 0, 0, 0]
        for part in (batch.context[:, 0, 0], batch.y[:, 0], batch.hint[:, 0, 0, 0]):
            assert torch.equal(part, values)
        seen |= {round(value, 1) for value in values.tolist()}
    assert len(seen) == 9


def test_the_state_of_the_generator_decides_the_batch():
    draw, generator = EncodedDraw(ROWS, EMPTY, 4), seeded(3)
    state = generator.get_state()
    first = draw(generator)
    again = EncodedDraw(ROWS, EMPTY, 4)(generator.set_state(state))
    for part in ("x0", "context", "hint", "y"):
        assert torch.equal(getattr(first, part), getattr(again, part))


def test_a_dropped_prompt_loses_its_pooled_half_too():
    batches = [EncodedDraw(ROWS, EMPTY, 4, drop_text=0.5)(seeded(n)) for n in range(40)]
    assert 50 < sum(int(batch.dropped.sum()) for batch in batches) < 110
    for batch in batches:
        assert torch.equal(batch.without_dropped().context[:, 0, 0] == 0, batch.dropped)
        assert torch.equal(batch.without_dropped().y[:, 0] == 0, batch.dropped)
    assert all(batch.empty.abs().max() == 0 for batch in batches)


def test_sdxl_is_told_the_size_of_the_latents():
    batch = EncodedDraw([row(0.5, 8, 16)], EMPTY, 1, sizes=True, drop_text=0.0)(seeded())
    expected = timestep_embedding(torch.tensor([64, 128, 0, 0, 64, 128]), 256).flatten()
    assert batch.y.shape == (1, 3 + 1536)
    torch.testing.assert_close(batch.y[0, 3:], expected)
    torch.testing.assert_close(batch.empty_y[0, 3:], expected)


@pytest.mark.parametrize(("channels", "kept"), [(1, 3), (3, 3), (4, 4)])
def test_a_condition_comes_to_the_size_of_its_picture_grey_ones_in_three_channels(channels, kept):
    batch = EncodedDraw([row(0.5, scale=4, channels=channels)], EMPTY, 1)(seeded())
    assert batch.hint.shape == (1, kept, 64, 64)


def test_a_condition_of_another_shape_is_refused_by_its_number():
    bad = Encoded(torch.zeros(1, 4, 8, 8), EMPTY, torch.zeros(1, 3, 64, 128))
    with pytest.raises(ValueError, match=r"Condition 2 is 128x64 pixels .* its latents 64x64"):
        EncodedDraw([row(0.1), bad], EMPTY, 1)


def test_prompts_without_a_pooled_half_give_no_y():
    plain = Prompt(torch.zeros(1, 2, 4))
    rows = [Encoded(r.latents, Prompt(r.prompt.context), r.condition) for r in ROWS]
    batch = EncodedDraw(rows, plain, 2)(seeded())
    assert batch.y is None
    assert batch.empty_y is None
