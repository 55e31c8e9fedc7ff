"""Captions by an image-to-text model, a BLIP of a few random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.training.data.records import Problems
from controlnet_pp.dataset.captions import captioner, write_captions
from controlnet_pp.dataset.folders import read_folders
from PIL import Image

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "red", "circle")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder as transformers writes it."""
    import transformers

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizer(
        str(folder / "vocab.txt"), additional_special_tokens=["[DEC]", "[ENC]"]
    )
    images = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(folder)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BlipConfig(
        text_config={
            **small,
            "vocab_size": len(WORDS),
            "encoder_hidden_size": 16,
            "intermediate_size": 16,
            "bos_token_id": 5,
            "sep_token_id": 3,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={**small, "intermediate_size": 16, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    network = transformers.BlipForConditionalGeneration(config)
    with torch.no_grad():  # so that it prefers words to what is skipped
        network.text_decoder.cls.predictions.bias[7:] += 5
    network.save_pretrained(folder)
    return folder


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_pictures_without_a_caption_get_one_and_can_be_trained_with(tmp_path, model):
    for number, name in enumerate(("ape", "bee", "cat")):
        picture(tmp_path / f"{name}.png", number)
    (tmp_path / "bee.txt").write_text("a bee, by hand")
    (tmp_path / "cat.txt").write_text(" \n")
    assert write_captions(tmp_path, captioner(model), Problems()) == 2
    captions = {Path(r.name).stem: r.caption for r in read_folders(tmp_path, None, Problems())}
    assert captions["bee"] == "a bee, by hand"
    for name in ("ape", "cat"):
        assert captions[name].split()
        assert set(captions[name].split()) <= set(WORDS[7:])
    assert write_captions(tmp_path, captioner(model), Problems()) == 0


def test_a_picture_that_cant_be_read_is_a_problem(tmp_path):
    picture(tmp_path / "ape.png")
    (tmp_path / "bee.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"bee\.png can't be read as a picture"):
        write_captions(tmp_path, lambda _: "something", Problems())
    (tmp_path / "ape.txt").unlink()
    problems = Problems(skip=True)
    assert write_captions(tmp_path, lambda _: "something", problems) == 1
    assert len(problems.found) == 1
    assert not (tmp_path / "bee.txt").exists()


def test_a_picture_that_the_model_says_nothing_of_is_a_problem(tmp_path):
    picture(tmp_path / "ape.png")
    problems = Problems(skip=True)
    assert write_captions(tmp_path, lambda _: "", problems) == 0
    assert "ape.png: the model says nothing of it" in problems.found[0]
    assert not (tmp_path / "ape.txt").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [(None, r"has no config\.json"), ("{}", "can't be loaded as an image-to-text model")],
)
def test_a_folder_without_such_a_model_is_named(tmp_path, config, words):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=words):
        captioner(tmp_path)


def test_without_the_package_it_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install transformers, or write them by hand"):
        captioner(tmp_path)
