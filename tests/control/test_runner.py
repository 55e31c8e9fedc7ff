"""The runner against the plainest way to the same residuals: compute all, multiply all."""

import pytest
import torch
from controlnet_pp.cnpp_core.control.masks import BlockMasks, resize_mask
from controlnet_pp.cnpp_core.control.residuals import ControlResiduals
from controlnet_pp.cnpp_core.control.reuse import ReusePolicy
from controlnet_pp.cnpp_core.control.rows import CONTROL_MODES
from controlnet_pp.cnpp_core.control.runner import Chunk, ControlRunner, Request
from controlnet_pp.cnpp_core.control.scales import BlockScales, ScalePreset
from controlnet_pp.cnpp_core.control.schedule import ScaleSchedule, parse_schedule
from controlnet_pp.cnpp_core.control.shape import ControlShape, ControlSpeed
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = ((8, 12), (4, 6), (2, 3), (2, 3))  # of four blocks, for a latent of 8x12


def residuals_of(x):
    """Stands for a network: a map per block that depends on the row's latents alone."""
    means = x.mean(dim=(1, 2, 3), keepdim=True)
    return [
        (1 + i + means) * torch.linspace(1, 2, h * w).view(1, 1, h, w)
        for i, (h, w) in enumerate(SIZES)
    ]


class Network:
    """Counts what it is asked for."""

    def __init__(self, request):
        self.request = request
        self.calls = []

    def __call__(self, chunks, asked):
        self.calls.append(([chunk.index for chunk in chunks], asked))
        x = torch.cat([self.request.rows(self.request.x, chunk) for chunk in chunks])
        blocks = residuals_of(x)
        return ControlResiduals([b if asked is None or i in asked else None
                                 for i, b in enumerate(blocks)])  # fmt: skip


def request_of(sides, images=1, seed=0):
    x = torch.randn(len(sides) * images, 4, 8, 12, generator=torch.Generator().manual_seed(seed))
    return Request(x, tuple(Chunk(i, side, key=f"{side} {i}") for i, side in enumerate(sides)))


def run(shape, request, percent=0.0, step=None, blocks=4, runner=None):
    network = Network(request)
    runner = runner or ControlRunner(shape, blocks)
    return runner.residuals(request, lambda: percent, step, network), network.calls


SIDES = ("cond", "uncond")
sides_of_a_call = st.lists(st.sampled_from(SIDES), min_size=1, max_size=4)
SCHEDULE = ScaleSchedule(parse_schedule("0%: 1; 50%: structure; 100%: 0.25"))


@settings(max_examples=60, deadline=None)
@given(
    sides=sides_of_a_call,
    images=st.integers(1, 3),
    percent=st.floats(0, 1),
    mode=st.sampled_from(list(CONTROL_MODES)),
    scales=st.sampled_from([None, SCHEDULE, ScalePreset("mid only"), BlockScales((0, 2, 0, 0.5))]),
    mask=st.sampled_from([None, "all blocks", "detail", 3]),
)
def test_any_shape_is_every_residual_times_its_factors(sides, images, percent, mode, scales, mask):
    where = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1))
    masks = BlockMasks() if mask is None else BlockMasks().with_layer(where, mask)
    shape = ControlShape(scales=scales, rows=CONTROL_MODES[mode], masks=masks)
    request = request_of(sides, images)
    got, _ = run(shape, request, percent)

    rows = CONTROL_MODES[mode]
    for i, (block, full) in enumerate(zip(got, residuals_of(request.x), strict=True)):
        wanted = full.clone()
        for chunk in request.chunks:
            part = slice(chunk.index * images, (chunk.index + 1) * images)
            factor = rows.resolve(chunk.side, 4, percent).values[i]
            if scales is not None:
                factor *= scales.resolve(4, percent).values[i]
            wanted[part] *= factor
            covers = masks.of_block(i, 4)
            if covers is not None:
                small = resize_mask(covers, SIZES[i])
                wanted[part] *= torch.stack([small[image % 2] for image in range(images)])[:, None]
        block = torch.zeros_like(wanted) if block is None else block
        assert torch.allclose(block, wanted, atol=1e-5)


def test_only_the_rows_and_blocks_that_count_are_asked_for():
    shape = ControlShape(scales=BlockScales((1, 0, 1, 0)), rows=CONTROL_MODES["cond rows only"])
    _, calls = run(shape, request_of(["uncond", "cond", "uncond", "cond"]))
    assert calls == [([1, 3], frozenset({0, 2}))]


def test_a_neutral_shape_hands_the_networks_own_tensors_on():
    request = request_of(SIDES)
    made = ControlResiduals(residuals_of(request.x))
    got = ControlRunner(ControlShape(), 4).residuals(
        request, lambda: 0.0, None, lambda _chunks, _asked: made
    )
    assert all(a is b for a, b in zip(got, made, strict=True))


def reusing(every, **shape):
    return ControlShape(speed=ControlSpeed(reuse=ReusePolicy(every)), **shape)


def test_reuse_holds_across_a_change_of_the_split():
    """Cond and uncond together, apart, together: each row comes from the step that computed it."""
    shape = reusing(4)
    runner = ControlRunner(shape, 4)
    both = request_of(SIDES, seed=0)
    first, _ = run(shape, both, step=0, runner=runner)
    for side in (0, 1):
        alone = Request(torch.randn(1, 4, 8, 12), (Chunk(0, SIDES[side], f"{SIDES[side]} {side}"),))
        got, calls = run(shape, alone, step=1, runner=runner)
        assert calls == []
        for block, full in zip(got, first, strict=True):
            assert torch.equal(block, full[side : side + 1])
    turned = Request(both.x.flip(0), (Chunk(0, "uncond", "uncond 1"), Chunk(1, "cond", "cond 0")))
    got, calls = run(shape, turned, step=2, runner=runner)
    assert calls == []
    assert all(torch.equal(a, b.flip(0)) for a, b in zip(got, first, strict=True))


@pytest.mark.parametrize("sides", [("cond",), SIDES], ids=len)
@pytest.mark.parametrize("shape", [{}, {"rows": CONTROL_MODES["cond rows only"]}], ids=str)
def test_what_is_handed_out_may_be_written_to(sides, shape):
    """The host adds in place; with cfg 1 a call has one chunk."""
    shape = reusing(9, **shape)
    runner, request = ControlRunner(shape, 4), request_of(sides)
    expected, _ = run(shape, request)
    for step in range(4):
        got, calls = run(shape, request, step=step, runner=runner)
        assert bool(calls) == (step == 0)
        for block, wanted in zip(got, expected, strict=True):
            assert torch.equal(block, wanted)
            block.fill_(step + 7)


def test_drift_is_measured_on_what_the_network_reads_where_that_is_given():
    shape = ControlShape(speed=ControlSpeed(reuse=ReusePolicy(9, max_drift=0.1)))
    request = request_of(["cond"])
    x, read = request.x, torch.ones_like(request.x)
    steps = [
        (x, read, True),
        (3 * x, read, False),  # only the latents have changed
        (x, 2 * read, True),  # only what is read
        (x, None, True),  # the latents are what is read
        (x, None, False),
        (3 * x, None, True),
    ]
    runner = ControlRunner(shape, 4)
    for step, (latents, inputs, computed) in enumerate(steps):
        now = Request(latents, request.chunks)
        network = Network(now)
        runner.residuals(now, lambda: 0.0, step, network, inputs)
        assert bool(network.calls) == computed, f"step {step}"


def test_drift_is_that_of_each_prompt_alone():
    shape = ControlShape(speed=ControlSpeed(reuse=ReusePolicy(9, max_drift=0.1)))
    runner, request = ControlRunner(shape, 4), request_of(SIDES, images=2)
    read = torch.ones_like(request.x)
    runner.residuals(request, lambda: 0.0, 0, Network(request), read)
    network = Network(request)
    changed = read.clone()
    changed[3] = 2
    runner.residuals(request, lambda: 0.0, 1, network, changed)
    assert network.calls == [([1], None)]


def test_a_prompt_that_joins_later_is_computed_alone():
    shape = reusing(4)
    runner = ControlRunner(shape, 4)
    run(shape, request_of(["cond"]), step=0, runner=runner)
    later = Request(
        torch.randn(2, 4, 8, 12), (Chunk(0, "cond", "cond 0"), Chunk(1, "cond", "another"))
    )
    _, calls = run(shape, later, step=1, runner=runner)
    assert calls == [([1], None)]


def test_a_schedule_shapes_reused_residuals_as_of_now():
    shape = reusing(9, scales=ScaleSchedule(parse_schedule("0%: 1; 100%: 0.5")))
    runner, request = ControlRunner(shape, 4), request_of(["cond"])
    first, _ = run(shape, request, percent=0.0, step=0, runner=runner)
    later, calls = run(shape, request, percent=0.5, step=3, runner=runner)
    assert calls == []
    for a, b in zip(first, later, strict=True):
        assert torch.allclose(0.75 * a, b)


def test_blocks_that_a_schedule_wakes_are_computed_then():
    shape = reusing(9, scales=ScaleSchedule(parse_schedule("0%: detail; 50%: 1", "step")))
    runner, request = ControlRunner(shape, 4), request_of(["cond"])
    _, calls = run(shape, request, percent=0.0, step=0, runner=runner)
    assert calls == [([0], frozenset({0, 1}))]
    _, calls = run(shape, request, percent=0.6, step=3, runner=runner)
    assert calls == [([0], frozenset({0, 1, 2, 3}))]


def test_the_number_of_blocks_may_become_known_with_the_first_answer():
    shape = ControlShape(scales=ScalePreset("mid only"), rows=CONTROL_MODES["cond rows only"])
    runner, request = ControlRunner(shape, None), request_of(SIDES)
    first, calls = run(shape, request, runner=runner)
    assert calls == [([0, 1], None)]
    second, calls = run(shape, request, runner=runner)
    assert calls == [([0], frozenset({3}))]
    for a, b in zip(first, second, strict=True):
        a, b = (torch.zeros(1) if block is None else block for block in (a, b))
        assert torch.equal(a, b)


def test_masks_crop_by_area_and_pick_by_frame():
    mask = torch.zeros(3, 8, 8)
    mask[1] = 1.0
    mask[2, :, 4:] = 1.0
    shape = ControlShape(masks=BlockMasks().with_layer(mask))
    ones = ControlResiduals([torch.ones(2, 1, 4, 4)])
    request = Request(
        torch.zeros(2, 4, 4, 4),
        (Chunk(0, "cond", area=(4, 4, 0, 2)),),
        full=(8, 8),
        frames=(2, 1),
    )
    (block,) = ControlRunner(shape, 1).residuals(request, lambda: 0.0, None, lambda *_: ones)
    assert torch.equal(block[0, 0], torch.tensor([[0.0, 0, 1, 1]]).expand(4, 4))
    assert (block[1] == 1).all()


def test_masks_lie_on_tokens_row_by_row():
    mask = torch.zeros(1, 8, 12)
    mask[:, :, 6:] = 1.0
    shape = ControlShape(masks=BlockMasks().with_layer(mask))
    request = Request(torch.zeros(1, 16, 8, 12), (Chunk(0, "cond"),))
    tokens = ControlResiduals([torch.ones(1, 4 * 6, 5)])
    (block,) = ControlRunner(shape, 1).residuals(request, lambda: 0.0, None, lambda *_: tokens)
    assert torch.equal(block[0, :, 0].view(4, 6), torch.tensor([[0.0, 0, 0, 1, 1, 1]]).expand(4, 6))
