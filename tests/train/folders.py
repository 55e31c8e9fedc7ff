"""Models of a few random weights in diffusers' layout, and sets of small pictures."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from controlnet_pp.demo.circles import write_circles
from PIL import Image

LENGTH = 77
COMMON = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "sample_size": 8,
}


def write_folder(folder: Path, *, xl: bool = False, **scheduler) -> Path:
    """A model like SD1.5, or like SDXL, as its pipeline would be saved."""
    import diffusers

    torch.manual_seed(0)
    parts = ["tokenizer", "text_encoder", *(["tokenizer_2", "text_encoder_2"] if xl else [])]
    for number, name in enumerate(parts):
        if name.startswith("tokenizer"):
            _write_tokenizer(folder / name)
        else:
            _text_encoder(second=number > 1).save_pretrained(folder / name)
    unet(xl).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4,
        latent_channels=4,
        norm_num_groups=32,
        scaling_factor=0.13025 if xl else 0.18215,
    ).save_pretrained(folder / "vae")
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    diffusers.DDIMScheduler(**{**settings, **scheduler}).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text("{}")
    return folder


def unet(xl: bool = False):
    import diffusers

    more = {"cross_attention_dim": 32, "attention_head_dim": 8}
    if xl:
        more = {
            "cross_attention_dim": 64,
            "attention_head_dim": 8,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 6 * 256 + 32,
        }
    return diffusers.UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **COMMON,
        **more,
    )


def _text_encoder(second: bool):
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=32,
        bos_token_id=0,
        eos_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if second else transformers.CLIPTextModel
    return kind(config)


def _write_tokenizer(folder: Path) -> None:
    import transformers

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=LENGTH).save_pretrained(
        folder
    )


def circles(folder: Path, count: int = 6, size: int = 64) -> Path:
    """In the layout of fill50k."""
    write_circles(folder, count, size=size)
    return folder


def pictures_with_captions(folder: Path, count: int = 6, size: int = 64) -> Path:
    """`NAME.png` and `NAME.txt`, made of circles."""
    source = circles(folder.with_name(f"{folder.name}-source"), count, size)
    folder.mkdir(parents=True)
    for line in (source / "prompt.json").read_text().splitlines():
        entry = json.loads(line)
        name = Path(entry["target"]).name
        Image.open(source / entry["target"]).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(entry["prompt"])
    return folder
