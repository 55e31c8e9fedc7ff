"""The paper's protocol against its own steps: files written by Pillow, scores by torchmetrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.ade20k import PALETTE, to_colours
from controlnet_pp.annotators.kinds import ADE20K
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.evaluate.paper import PUBLISHED, paper_protocol
from PIL import Image
from sklearn.metrics import jaccard_score
from torchmetrics.classification import BinaryF1Score
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

SIZE = 192
GROUPS = 4


def soft(seed: int, batch: int = GROUPS, size: int = SIZE) -> torch.Tensor:
    """Smooth random maps (B, 1, size, size) that reach 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 1, 12, 12, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return (1.4 * smooth - 0.2).clamp(0, 1)


def edges(seed: int, batch: int = GROUPS) -> torch.Tensor:
    return (soft(seed, batch) > 0.8).float()


def saved(maps: torch.Tensor, folder: Path, name: str) -> list[np.ndarray]:
    """Written as torchvision's to_pil_image does (cut to 8 bits), and read back as mode L."""
    read = []
    for index, one in enumerate(maps):
        file = folder / f"{name}_{index}.png"
        Image.fromarray(one[0].mul(255).byte().numpy(), "L").convert("RGB").save(file)
        read.append(np.array(Image.open(file).convert("L")))
    return read


def published_canny(raw: torch.Tensor, condition: torch.Tensor, folder: Path) -> float:
    found = torch.from_numpy(np.stack(saved(raw, folder, "edge")))
    wanted = torch.from_numpy(saved(condition, folder, "label")[0]).repeat(GROUPS, 1, 1)
    found[found == 255] = 1
    wanted[wanted == 255] = 1
    return BinaryF1Score()(found.flatten(), wanted.flatten()).item()


def published_soft(raw, condition, folder: Path, invert: bool) -> float:
    found = torch.from_numpy(np.stack(saved(raw, folder, "line")))[:, None]
    wanted = torch.from_numpy(saved(condition, folder, "label")[0])[None, None]
    wanted = wanted.repeat(GROUPS, 1, 1, 1)
    if invert:
        found = 1 - found  # uint8, as published
    ssim = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)
    return ssim((found / 255.0).clip(0, 1), (wanted / 255.0).clip(0, 1)).item()


def published_depth(raw, condition: Image.Image, folder: Path) -> float:
    label = np.array(condition)
    label = (label - label.min()) / (label.max() - label.min()) * 255
    Image.fromarray(label.astype("uint8")).save(folder / "label.png")
    wanted = torch.from_numpy(np.array(Image.open(folder / "label.png").convert("L"))).float()
    errors = []
    for x in raw[:, 0]:
        picture = Image.fromarray((x / x.max()).mul(255).byte().numpy(), "L").convert("RGB")
        picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR).convert("L")
        found = torch.from_numpy(np.array(picture)).float()
        errors.append(torch.nn.functional.mse_loss(found, wanted).sqrt().item())
    return float(np.mean(errors))


def score(kind: Condition, raw: torch.Tensor, condition: torch.Tensor):
    protocol = paper_protocol(kind, PALETTE[1:])
    return protocol.sample(protocol.prediction(raw, SIZE, SIZE), protocol.label(condition))


@pytest.mark.parametrize("seed", range(3))
def test_canny_is_the_f1_over_all_pictures_of_a_sample_at_once(tmp_path, seed):
    raw, condition = edges(seed), edges(seed + 9, batch=1)
    raw[0] = condition  # unequal parts, so that a mean over pictures would be another number
    expected = 100 * published_canny(raw, condition, tmp_path)
    found = score(Condition.CANNY, raw, condition)
    assert found.score == pytest.approx(expected, abs=1e-4)
    assert abs(sum(found.per_picture) / GROUPS - expected) > 0.01


def test_two_empty_edge_maps_score_zero_as_published(tmp_path):
    empty = torch.zeros(GROUPS, 1, SIZE, SIZE)
    assert published_canny(empty, empty[:1], tmp_path) == 0
    assert score(Condition.CANNY, empty, empty[:1]).score == 0


def test_grey_edges_are_refused():
    with pytest.raises(ValueError, match="neither black nor white"):
        score(Condition.CANNY, edges(0), soft(1, batch=1))


@pytest.mark.parametrize("seed", range(3))
def test_softedge_is_the_ms_ssim_of_maps_cut_to_8_bits_twice(tmp_path, seed):
    probability = soft(seed)
    condition = (soft(seed, batch=1) * 255).byte() / 255.0
    network_output = (probability * 255.0).clip(0, 255).to(torch.uint8) / 255.0
    expected = published_soft(network_output, condition, tmp_path, invert=False)
    assert score(Condition.SOFTEDGE, probability, condition).score == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize("seed", range(3))
def test_lineart_wraps_around_where_it_is_inverted(tmp_path, seed):
    drawing = 1 - soft(seed)  # black on white, with whites of exactly 1 and blacks of 0
    condition = (soft(seed, batch=1) * 255).byte() / 255.0
    assert (drawing == 0).any()
    expected = published_soft(drawing, condition, tmp_path, invert=True)
    assert score(Condition.LINEART, drawing, condition).score == pytest.approx(expected, abs=1e-5)
    protocol = paper_protocol(Condition.LINEART)
    steps = torch.tensor([0, 1, 2, 254, 255]).view(1, 1, 1, 5) / 255
    assert protocol.prediction(steps + 1e-4, 1, 5).flatten().tolist() == [1, 0, 255, 3, 2]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_depth_is_the_mean_rmse_of_resized_8_bit_maps(tmp_path, mode):
    raw = 40 * soft(1, size=96) + 3
    pixels = (30 + 180 * soft(2, batch=1)[0, 0]).byte().numpy()
    picture = Image.fromarray(pixels, "L").convert(mode)
    tensor = torch.from_numpy(np.array(picture)).float() / 255
    condition = tensor[None, None] if mode == "L" else tensor.movedim(-1, 0)[None]
    expected = published_depth(raw, picture, tmp_path)
    found = score(Condition.DEPTH, raw, condition)
    assert found.score == pytest.approx(expected, abs=1e-4)


def labels(seed: int, batch: int) -> torch.Tensor:
    """Stripes and noise over few classes, (B, 1, SIZE, SIZE)."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.tensor([2, 4, 12, 6]).repeat_interleave(SIZE // 4).expand(batch, 1, SIZE, -1)
    noise = torch.randint(0, 20, base.shape, generator=generator)
    return torch.where(torch.rand(base.shape, generator=generator) < 0.3, noise, base)


def test_seg_adds_up_counts_over_the_data_set():
    protocol = paper_protocol(Condition.SEG, PALETTE[1:])
    samples, all_found, all_wanted = [], [], []
    for seed in range(3):
        raw = labels(seed, GROUPS)
        numbers = labels(seed + 7, 1) + 1
        numbers[..., :5] = 0  # background, ignored
        samples.append(score(Condition.SEG, raw, numbers / 255))
        wanted = (numbers.expand_as(raw) - 1).numpy()
        all_found.append(raw.numpy()[wanted >= 0])
        all_wanted.append(wanted[wanted >= 0])
    expected = jaccard_score(
        np.concatenate(all_wanted), np.concatenate(all_found), average="macro", zero_division=0
    )
    assert protocol.total(samples) == pytest.approx(100 * expected, abs=1e-5)


def test_seg_conditions_in_colours_and_in_numbers_agree():
    raw, wanted = labels(1, GROUPS), labels(2, 1)
    wanted[..., :9] = 100
    by_number = score(Condition.SEG, raw, (wanted + 1) / 255)
    by_colour = score(Condition.SEG, raw, to_colours(wanted[:, 0]))
    assert by_number.score == by_colour.score


def test_classes_of_one_colour_are_merged_for_conditions_in_colours():
    protocol = paper_protocol(Condition.SEG, PALETTE[1:])
    assert protocol.merged(torch.tensor([48, 6, 2])).tolist() == [6, 6, 2]


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_only_kinds_of_the_paper_have_a_protocol(kind):
    if kind in PUBLISHED:
        protocol = paper_protocol(kind, PALETTE[1:])
        assert protocol.higher_is_better == kind.measure(classes=ADE20K).higher_is_better
    else:
        with pytest.raises(ValueError, match="not evaluated"):
            paper_protocol(kind)
