"""Overlap of labellings against torchmetrics and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.consistency.losses import cross_entropy
from controlnet_pp.cnpp_core.consistency.metrics import (
    class_iou,
    confusion,
    mean_iou,
)
from sklearn.metrics import confusion_matrix, jaccard_score
from torchmetrics.functional.classification import multiclass_jaccard_index


def labels(seed: int, classes: int, size=(23, 31), batch: int = 3, ignored: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(classes, (batch, *size), generator=generator)
    return torch.where(torch.rand(found.shape, generator=generator) < ignored, 255, found)


@pytest.mark.parametrize("classes", [2, 7, 150])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
@pytest.mark.parametrize("size", [(1, 1), (23, 31), (64, 64)])
def test_mean_iou_equals_scikit_learn(classes, ignored, size):
    prediction, target = labels(1, classes, size), labels(2, classes, size, ignored=ignored)
    target[:, 0, 0] = 0  # something is left in every picture
    found = mean_iou(prediction, target, classes)
    for index in range(3):
        kept = target[index] != 255
        pair = target[index][kept].numpy(), prediction[index][kept].numpy()
        expected = jaccard_score(*pair, average="macro", zero_division=0)
        assert found[index].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [3, 20])
def test_iou_of_a_data_set_equals_torchmetrics(classes):
    prediction, target = labels(3, classes), labels(4, classes, ignored=0.2)
    counts = confusion(prediction, target, classes)
    expected = multiclass_jaccard_index(
        prediction, target, classes, average="none", ignore_index=255
    )
    torch.testing.assert_close(class_iou(counts.sum(0)).float(), expected)


def test_counts_equal_scikit_learn():
    prediction, target = labels(5, 6), labels(6, 6, ignored=0.1)
    counts = confusion(prediction, target, 6)
    for index in range(3):
        kept = target[index] != 255
        expected = confusion_matrix(target[index][kept], prediction[index][kept], labels=range(6))
        assert np.array_equal(counts[index, :, :6].numpy(), expected)
        assert counts[index, :, 6].sum() == 0


def test_classes_in_neither_labelling_do_not_count():
    prediction, target = torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4).long()
    assert mean_iou(prediction, target, 150).item() == 1
    assert class_iou(confusion(prediction, target, 3)).isnan().tolist() == [[False, True, True]]


def test_pixels_outside_the_mask_do_not_count():
    target = labels(7, 5)
    mask = torch.zeros(1, 1, 23, 31)
    mask[..., :10] = 1
    prediction = torch.where(mask[:, 0] > 0, target, (target + 1) % 5)
    assert mean_iou(prediction, target, 5, mask=mask).tolist() == [1, 1, 1]


def test_no_prediction_where_a_class_is_wanted_lowers_the_score():
    target = torch.zeros(1, 2, 2).long()
    prediction = torch.tensor([[[0, 0], [0, 255]]])
    assert mean_iou(prediction, target, 2).item() == 0.75


def test_a_picture_in_which_all_is_ignored_has_no_score():
    target = torch.full((1, 4, 4), 255)
    assert mean_iou(torch.zeros(1, 4, 4).long(), target, 5).isnan().all()


def test_one_target_serves_every_prediction_and_any_dtype():
    prediction, target = labels(8, 9), labels(9, 9, batch=1)
    expected = mean_iou(prediction, target.expand(3, -1, -1), 9)
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert torch.equal(mean_iou(prediction.to(dtype), target.to(dtype), 9), expected)


def test_cross_entropy_is_differentiable():
    target = labels(12, 3, (4, 5), batch=2, ignored=0.2)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, target[:, None]), (logits,))


def test_a_class_that_does_not_exist_is_refused_by_number():
    with pytest.raises(ValueError, match=r"target holds class 9; 4 classes"):
        mean_iou(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 9), 4)


def test_labellings_of_different_sizes_are_refused_with_both():
    with pytest.raises(ValueError, match=r"\(1, 2, 3\).*\(1, 2, 2\)"):
        mean_iou(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3).long(), 4)
