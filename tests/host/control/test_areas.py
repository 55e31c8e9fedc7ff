"""Control under conditionings that cover an area: what each of them sees of hint and mask."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import (
    CLOSE,
    embedded_hints,
    fitted,
    in_area,
    left,
    masked,
)
from controlnet_pp.tests.host.harness import TINY, apply, picture, prompt
from controlnet_pp.tests.host.residuals import captured


def area_prompts(host, *areas):
    """A prompt per (width, height, x, y) in pixels."""
    prompts = (in_area(host, prompt(TINY, 20 + i), *area) for i, area in enumerate(areas))
    return [part for (part,) in prompts]


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
    for area in HALVES:
        part = in_area(host, prompt(TINY, 2), *area)
        _, done = apply(
            host, theirs, negative=part, image=cut(*area), node="ControlNetApplyAdvanced"
        )
        negative += done
    _, whole = apply(host, theirs, node="ControlNetApplyAdvanced")
    wanted = host.sample(host.model(TINY), by_hand, [*whole, *negative])
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()
    squeezed = host.sample(host.model(TINY), *apply(host, ours, positive=positive))
    assert (got - squeezed).abs().max() > 100 * CLOSE


def test_two_areas_embed_their_hints_once_each_and_not_at_every_step(host):
    ours, _ = host.pair(TINY)
    positive = [*area_prompts(host, (64, 128, 0, 0), (128, 64, 0, 64)), *prompt(TINY, 1)]
    with embedded_hints(ours.control_model) as hints:
        for shaped in (fitted(host, ours), fitted(host, ours, follow_area=True)):
            hints.clear()
            host.sample(host.model(TINY), *apply(host, shaped, positive=positive), steps=5)
            sizes = sorted(tuple(hint.shape[-2:]) for hint in hints)
            assert sizes == [(64, 128), (128, 64), (128, 128)]


def test_an_area_that_comes_behind_the_control_is_refused_by_name(host):
    ours, _ = host.pair(TINY)
    positive, negative = apply(host, fitted(host, ours, follow_area=True))
    positive = in_area(host, positive, 64, 128)
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
    shaped = fitted(host, ours, follow_area=True)
    with embedded_hints(ours.control_model) as hints:
        host.sample(host.model(TINY), *apply(host, shaped, positive=positive))
    parts = {tuple(hint.shape[-2:]): hint[0] for hint in hints}
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
