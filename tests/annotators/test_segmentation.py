"""Segmentation: the palette in both directions, and transformers' models behind one interface."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from controlnet_pp.annotators.ade20k import (
    CLASSES,
    PALETTE,
    to_colours,
)
from controlnet_pp.annotators.segmentation import TASK, Segmentation, task_tokens
from torch import Tensor

LABELS = dict(enumerate(CLASSES))


def noise(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def upernet() -> Segmentation:
    torch.manual_seed(0)
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        use_auxiliary_head=False,
        id2label=LABELS,
        label2id={name: k for k, name in LABELS.items()},
    )
    model = transformers.UperNetForSemanticSegmentation(config).eval()
    # As initialised, all pixels get one class.
    torch.nn.init.normal_(model.decode_head.classifier.weight, std=1.0)
    return Segmentation(model)


@pytest.fixture(scope="module")
def oneformer() -> Segmentation:
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.OneFormerConfig(
        backbone_config=backbone,
        hidden_dim=32,
        mask_dim=32,
        conv_dim=32,
        num_attention_heads=2,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        query_dec_layers=1,
        text_encoder_width=32,
        text_encoder_num_layers=1,
        task_seq_len=8,
        max_seq_len=8,
        id2label=LABELS,
        label2id={name: k for k, name in LABELS.items()},
    )
    model = transformers.OneFormerForUniversalSegmentation(config).eval()
    for name, value in model.named_parameters():  # as initialised, all queries are alike
        if "class_embed" in name or "mask_embed" in name or "queries" in name:
            torch.nn.init.normal_(value, std=1.0)
    return Segmentation(model, torch.arange(8)[None])


@pytest.fixture(params=["upernet", "oneformer"])
def network(request: pytest.FixtureRequest) -> Segmentation:
    return request.getfixturevalue(request.param)


# The palette


def test_palette_has_150_classes_and_black_in_151_rows():
    assert len(CLASSES) == len(set(CLASSES)) == 150
    assert len(PALETTE) == 151
    assert PALETTE[0] == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "index", "colour"),
    [
        ("wall", 0, (120, 120, 120)),
        ("sky", 2, (6, 230, 230)),
        ("tree", 4, (4, 200, 3)),
        ("road", 6, (140, 140, 140)),
        ("grass", 9, (4, 250, 7)),
        ("person", 12, (150, 5, 61)),
        ("car", 20, (0, 102, 200)),
        ("water", 21, (61, 230, 250)),
        ("skyscraper", 48, (140, 140, 140)),
        ("flag", 149, (92, 0, 255)),
    ],
)
def test_known_classes_have_the_colours_that_people_paint_with(name, index, colour):
    assert CLASSES[index] == name
    assert PALETTE[index + 1] == colour


def test_palette_equals_the_reference():
    from controlnet_pp.tests.annotators.aux_oracle import aux

    assert [list(colour) for colour in PALETTE[1:]] == aux("util").ade_palette()


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (torch.tensor([[[0, 150]]]), "from 0 to 150"),
        (torch.tensor([[[-2, 3]]]), "from -2 to 3"),
        (torch.zeros(1, 2, 2), "float32"),
        (torch.zeros(2, 2, dtype=torch.long), r"\(2, 2\)"),
    ],
)
def test_indices_that_ade20k_lacks_are_refused(classes, words):
    with pytest.raises(ValueError, match=words):
        to_colours(classes)


# Networks


def test_classes_and_colours_say_the_same(network):
    classes, colours = network.segment(noise(1, 64, 96))
    assert classes.shape == (1, 64, 96)
    assert classes.unique().numel() > 1, "the test needs a picture of several classes"
    assert torch.equal(colours, to_colours(classes))
    assert torch.equal(network.annotate(noise(1, 64, 96)), colours)


def test_upernet_gives_the_models_own_logits(upernet):
    image = noise(1, 64, 96)
    pixels = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = upernet.model(pixel_values=pixels).logits
        torch.testing.assert_close(upernet.logits(image), expected, rtol=1e-5, atol=1e-5)


def test_oneformer_ranks_classes_as_transformers_own_post_processing(oneformer):
    image = noise(2, 64, 96)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (oneformer.mean, oneformer.std))
    with torch.no_grad():
        outputs = oneformer.model(
            pixel_values=(image - mean) / std, task_inputs=torch.arange(8)[None].expand(2, -1)
        )
    # post_process_semantic_segmentation, which can't be imported without torchvision, in its terms
    scores = outputs.class_queries_logits.softmax(-1)[..., :-1]
    expected = torch.zeros(2, 150, 16, 24)
    for query in range(scores.shape[1]):
        mask = outputs.masks_queries_logits[:, query].sigmoid()
        expected += scores[:, query, :, None, None] * mask[:, None]
    expected = torch.nn.functional.interpolate(expected, (64, 96), mode="bilinear")
    torch.testing.assert_close(oneformer.logits(image).exp(), expected, rtol=1e-4, atol=1e-5)
    same = oneformer.segment(image).classes == expected.argmax(1)
    assert same.float().mean() > 0.999  # ties are decided by the last bit


@pytest.mark.parametrize("size", [(480, 641), (700, 333)])
def test_odd_sizes_keep_their_size(upernet, size):
    classes, colours = upernet.segment(noise(1, *size))
    assert classes.shape == (1, *size)
    assert colours.shape == (1, 3, *size)


@pytest.mark.parametrize("size", [(97, 161), (31, 60)])
def test_padding_repeats_the_border_and_never_shows(network, size):
    image = noise(1, *size)
    down, right = (-side % 32 for side in size)
    drawn = torch.nn.functional.pad(image, (0, right, 0, down), "replicate")
    with torch.no_grad():
        logits = network.logits(image)
        expected = network.logits(drawn)[..., : size[0], : size[1]]
    assert logits.shape == (1, 150, *size)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_batch_of_four_equals_four_singles(network):
    images = noise(4, 64, 64)
    with torch.no_grad():
        singles = torch.cat([network.logits(image[None]) for image in images])
        torch.testing.assert_close(network.logits(images), singles, rtol=1e-4, atol=1e-4)


def test_logits_and_soft_colours_send_finite_gradients_to_the_picture(network):
    for soft in (network.logits, network):
        image = noise(1, 64, 64).requires_grad_()
        soft(image).square().mean().backward()
        assert image.grad is not None
        assert image.grad.isfinite().all()
        assert (image.grad != 0).float().mean() > 0.5


def test_soft_colours_are_the_mean_colour_under_the_probabilities(upernet):
    image = noise(1, 64, 64)
    with torch.no_grad():
        probability = upernet.logits(image).softmax(1)
        expected = sum(
            probability[:, k, None] * torch.tensor(PALETTE[k + 1]).view(3, 1, 1) / 255
            for k in range(150)
        )
        torch.testing.assert_close(upernet(image), expected, rtol=0, atol=1e-5)


def test_half_precision_model_takes_pictures_in_single_precision(upernet):
    image = noise(1, 64, 64)
    half = Segmentation(upernet.model, None)
    with torch.no_grad():
        expected = half.logits(image)
        half.to(torch.bfloat16)
        found = half.logits(image)
        half.float()
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.1 * expected.std()


# Folders


def test_folder_gives_the_model_that_was_saved(upernet, tmp_path):
    upernet.model.save_pretrained(tmp_path)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    loaded = Segmentation.from_folder(tmp_path)
    own = Segmentation(upernet.model, None, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    with torch.no_grad():
        assert torch.equal(loaded.logits(noise(1, 64, 64)), own.logits(noise(1, 64, 64)))


class Words:
    """A tokenizer that numbers words and pads with 7, as CLIP pads with its end token."""

    def __call__(self, texts, padding, max_length, truncation):
        assert (padding, truncation) == ("max_length", True)
        words = texts[0].split()
        ids = [len(word) for word in words] + [7] * (max_length - len(words))
        mask = [1] * len(words) + [0] * (max_length - len(words))
        return {"input_ids": [ids], "attention_mask": [mask]}


def test_task_is_padded_with_zeros_as_in_training():
    assert TASK == "the task is semantic"
    assert task_tokens(Words(), 6).tolist() == [[3, 4, 2, 8, 0, 0]]


def test_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        Segmentation.from_folder(tmp_path)


def test_folder_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"of a clip model.*oneformer or upernet"):
        Segmentation.from_folder(tmp_path)


def test_folder_without_weights_is_refused(upernet, tmp_path):
    upernet.model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="can't be loaded as upernet"):
        Segmentation.from_folder(tmp_path)


def test_model_with_other_classes_is_refused(upernet):
    config = transformers.UperNetConfig(backbone_config=upernet.model.config.backbone_config)
    with torch.device("meta"):
        model = transformers.UperNetForSemanticSegmentation(config)
    with pytest.raises(ValueError, match="upernet with 2 classes"):
        Segmentation(model)
