"""Consistency Search in the running host: the winner is KSampler's picture, and the best one."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY, prompt
from controlnet_pp.tests.host.select.searched import CANNY, SAMPLING, entries, run


@pytest.fixture(scope="module")
def found(host, world) -> dict:
    """What a search over two seeds and two strengths gives."""
    return run(host, world)


def by_hand(host, world, seed, strength, scales=None, window=(0.0, 1.0), **sampling):
    """LATENT and IMAGE of Apply ControlNet++, KSampler and VAE Decode."""
    positive, negative = host.call(
        "CNPP_Apply",
        positive=world["positive"],
        negative=world["negative"],
        control_net=world["control_net"],
        image=world["condition"],
        strength=strength,
        start_percent=window[0],
        end_percent=window[1],
        scales=scales,
    )
    (latent,) = host.call(
        "KSampler",
        model=world["model"],
        seed=seed,
        positive=positive,
        negative=negative,
        latent_image=world["latent_image"],
        **(SAMPLING | {"denoise": 1.0} | sampling),
    )
    (image,) = host.call("VAEDecode", vae=world["vae"], samples=latent)
    return latent, image


def check(host, world, image, **options):
    return host.call(
        "CNPP_CycleConsistencyCheck",
        images=image,
        condition=world["condition"],
        kind=CANNY,
        tolerance=1,
        annotator=world["annotator"],
        **options,
    )[0]


def test_the_winner_is_bit_for_bit_what_the_single_nodes_make(host, world, found):
    latent, image = by_hand(host, world, found["seed"], found["strength"])
    assert torch.equal(found["image"], image)
    assert torch.equal(found["latent"]["samples"], latent["samples"])
    assert set(found["latent"]) == set(latent)
    assert found["score"] == check(host, world, image)


def test_the_best_of_all_combinations_wins(host, world, found):
    scores = {
        (seed, strength): check(host, world, by_hand(host, world, seed, strength)[1])
        for seed in (5, 6)
        for strength in (0.4, 1.0)
    }
    best = max(scores, key=lambda key: scores[key])
    assert (found["seed"], found["strength"]) == best
    order = sorted(scores.values(), reverse=True)
    assert [line.split()[1] for line in entries(found["table"])] == [f"{s:.1%}" for s in order]
    for (seed, strength), score in scores.items():
        line = next(
            line
            for line in entries(found["table"])
            if line.endswith(f"seed {seed}, strength {strength:g}")
        )
        assert f" {score:.1%} " in line


def test_presets_scales_and_window_are_those_of_apply(host, world):
    schedule = "0%: 1; 100%: 0.5"
    (scales,) = host.call("CNPP_ScaleSchedule", schedule=schedule, interpolation="linear")
    options = {"seeds": 1, "strengths": "0.9", "start_percent": 0.1, "end_percent": 0.8}
    found = run(host, world, presets="structure", scales=scales, **options)
    product = host.pack("cnpp_core.control.scales").product
    preset = host.pack("cnpp_core.control.scales").ScalePreset("structure")
    both = product(scales, preset)
    assert torch.equal(found["image"], by_hand(host, world, 5, 0.9, both, (0.1, 0.8))[1])
    assert torch.equal(found["image"], by_hand(host, world, 5, 0.9, found["scales"], (0.1, 0.8))[1])
    assert "structure" in found["table"]
    alone = run(host, world, **options)
    assert torch.equal(alone["image"], by_hand(host, world, 5, 0.9, alone["scales"], (0.1, 0.8))[1])
    assert (alone["image"] != found["image"]).any()


@pytest.mark.parametrize(
    "sampling",
    [
        {"sampler_name": "euler_ancestral", "scheduler": "normal"},
        {"sampler_name": "heun", "scheduler": "karras"},
        {"denoise": 0.6},
        {"cfg": 1.0},
    ],
    ids=lambda sampling: ", ".join(map(str, sampling.values())),
)
def test_every_way_of_sampling_is_ksamplers(host, world, sampling):
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    world = world | {"latent_image": {"samples": start}}
    found = run(host, world, strengths="1", seeds=1, **sampling)
    assert torch.equal(found["image"], by_hand(host, world, 5, 1.0, **sampling)[1])


def test_an_inpainting_mask_and_noise_numbers_of_the_latent_count(host, world):
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 64:] = 1.0
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    latent = {"samples": start, "noise_mask": mask, "batch_index": [3]}
    world = world | {"latent_image": latent}
    found = run(host, world, strengths="1", seeds=1)
    wanted, image = by_hand(host, world, 5, 1.0)
    assert torch.equal(found["image"], image)
    assert found["latent"].keys() == wanted.keys()
    assert latent.keys() == {"samples", "noise_mask", "batch_index"}


def test_two_runs_give_the_same(host, world, found):
    first, second = found, run(host, world)
    for name in ("image", "sheet"):
        assert torch.equal(first[name], second[name])
    assert [first[n] for n in ("score", "seed", "strength", "table")] == [
        second[n] for n in ("score", "seed", "strength", "table")
    ]


def test_strength_0_is_tried_without_control(host, world):
    found = run(host, world, strengths="0, 0.0", presets="uniform, detail", seeds=1)
    assert len(entries(found["table"])) == 1
    assert found["strength"] == 0.0
    assert torch.equal(found["image"], by_hand(host, world, 5, 0.0)[1])


def test_the_sheet_has_all_pictures_with_their_scores(found):
    sheet = found["sheet"]
    assert sheet.shape[0] == 1
    assert sheet.shape[-1] == 3
    best = (found["image"] * 255).round() / 255
    height, width = best.shape[1:3]
    assert torch.allclose(sheet[:, 8 : 8 + height, 8 : 8 + width], best, atol=1e-6)
    caption = sheet[0, 8 + height : 8 + height + 40, 8 : 8 + 150]
    assert (caption > 0.5).any()


def test_where_the_score_is_an_error_the_smallest_wins(host, world):
    greys = torch.linspace(0, 1, 128).expand(1, 1, 128, 128)
    pattern = greys.movedim(1, -1).expand(-1, -1, -1, 3)
    finder = host.annotator("depth", lambda image: image.mean(1, keepdim=True))
    found = run(host, world | {"annotator": finder}, condition=pattern, kind="depth")
    scores = [float(line.split()[1]) for line in entries(found["table"])]
    assert scores == sorted(scores)
    assert found["score"] == pytest.approx(min(scores), abs=0.01)
    assert "lower is better" in found["table"]


def test_only_the_inside_of_the_mask_is_scored(host, world):
    mask = torch.zeros(1, 128, 128)
    mask[:, :, :70] = 1.0
    found = run(host, world, mask=mask, strengths="1", seeds=1)
    assert found["score"] == check(host, world, found["image"], mask=mask)
    assert torch.equal(found["image"], by_hand(host, world, 5, 1.0)[1])


def test_a_control_of_the_hosts_loader_on_another_model_can_be_searched(host, world):
    _, theirs = host.pair(TINY)
    tiny = world | {
        "model": host.model(TINY),
        "control_net": theirs,
        "positive": prompt(TINY, 1),
        "negative": prompt(TINY, 2),
    }
    found = run(host, tiny, seeds=1, strengths="0.5, 1", presets="uniform, mid only")
    assert len(entries(found["table"])) == 4
    latent, _ = by_hand(host, tiny, found["seed"], found["strength"], found["scales"])
    assert torch.equal(found["latent"]["samples"], latent["samples"])
