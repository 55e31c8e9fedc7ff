"""Models from diffusers' folders and checkpoint files, against diffusers' own classes."""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import save_unet_file
from controlnet_pp.cnpp_core.checkpoint.save import save_controlnet_file
from controlnet_pp.cnpp_core.checkpoint.trained import Training
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.training.data.embeddings import size_embedding
from controlnet_pp.cnpp_core.training.denoiser import PredictionType
from controlnet_pp.tests.train.folders import unet as diffusers_unet
from controlnet_pp.tests.train.folders import write_folder
from controlnet_pp.tests.trained import photo, trained_file
from controlnet_pp.train.diffusers_folder import folder_model, tiny_decoder
from controlnet_pp.train.models import begin, unet_of_checkpoint, unet_of_diffusers
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")
ABOUT = Training("sd", "canny", 1, "0")
CAPTIONS = ["a red circle", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("models") / "xl", xl=True)


def part(folder, name, kind, package="transformers"):
    return getattr(importlib.import_module(package), kind).from_pretrained(folder / name)


def test_a_folder_is_what_its_pipeline_makes_of_it(folder):
    import diffusers

    model = folder_model(folder, None, CPU, named=False)
    vae = part(folder, "vae", "AutoencoderKL", "diffusers")
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=part(folder, "text_encoder", "CLIPTextModel"),
        tokenizer=part(folder, "tokenizer", "CLIPTokenizer"),
        unet=part(folder, "unet", "UNet2DConditionModel", "diffusers"),
        scheduler=part(folder, "scheduler", "DDIMScheduler", "diffusers"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    context, y = model.encoders.text(CAPTIONS)
    assert torch.allclose(context, pipeline.encode_prompt(CAPTIONS, CPU, 1, False)[0], atol=1e-5)
    assert y is None
    assert not model.sizes
    picture = torch.rand(1, 3, 64, 64)
    latents = model.encoders.image(picture)
    theirs = vae.encode(pipeline.image_processor.preprocess(picture)).latent_dist.mode()
    assert torch.allclose(latents, theirs * 0.18215, atol=1e-5)
    assert torch.allclose(model.decode(theirs), vae.decode(theirs).sample, atol=1e-5)
    t = torch.tensor([500, 7])
    x = torch.randn(2, 4, 8, 8)
    assert torch.allclose(model.unet(x, t, context), pipeline.unet(x, t, context).sample, atol=1e-4)
    assert torch.allclose(
        model.schedule.alphas_cumprod, pipeline.scheduler.alphas_cumprod, rtol=1e-4
    )
    assert model.name == "sd"


def test_a_folder_of_sdxl_has_two_text_encoders_and_y(xl_folder):
    import diffusers

    model = folder_model(xl_folder, None, CPU, named=False)
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=part(xl_folder, "vae", "AutoencoderKL", "diffusers"),
        text_encoder=part(xl_folder, "text_encoder", "CLIPTextModel"),
        text_encoder_2=part(xl_folder, "text_encoder_2", "CLIPTextModelWithProjection"),
        tokenizer=part(xl_folder, "tokenizer", "CLIPTokenizer"),
        tokenizer_2=part(xl_folder, "tokenizer_2", "CLIPTokenizer"),
        unet=part(xl_folder, "unet", "UNet2DConditionModel", "diffusers"),
        scheduler=part(xl_folder, "scheduler", "DDIMScheduler", "diffusers"),
        add_watermarker=False,
    )
    context, pooled = model.encoders.text(CAPTIONS)
    embeds, _, theirs, _ = pipeline.encode_prompt(
        CAPTIONS, device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.allclose(context, embeds, atol=1e-5)
    assert torch.allclose(pooled, theirs, atol=1e-5)
    assert model.sizes
    assert model.latent_scale == pytest.approx(0.13025)
    sizes = (64, 96, 0, 4, 64, 64)
    y = torch.cat([pooled, size_embedding(*sizes).expand(2, -1)], 1)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500, 7])
    added = {"text_embeds": pooled, "time_ids": torch.tensor([sizes, sizes])}
    expected = pipeline.unet(x, t, context, added_cond_kwargs=added).sample
    assert torch.allclose(model.unet(x, t, context, y), expected, atol=1e-4)


def test_the_autoencoder_of_sdxl_decodes_in_full_precision(folder, xl_folder):
    latents = torch.randn(1, 4, 8, 8)
    equal = []
    for one in (folder, xl_folder):
        decode = folder_model(one, None, CPU, named=False).decode
        with torch.autocast("cpu", torch.bfloat16):
            half = decode(latents)
        equal.append(torch.equal(half, decode(latents)))
    assert equal == [False, True]


def test_the_unet_of_a_checkpoint_takes_the_place_of_the_folder_s(folder, tmp_path):
    """With other weights, among the tensors of a whole checkpoint."""
    torch.manual_seed(9)
    theirs = diffusers_unet()
    file = tmp_path / "other.safetensors"
    save_unet_file(file, unet_of_diffusers(theirs.state_dict(), "other"), ABOUT)
    whole = {**load_file(file), "first_stage_model.encoder.conv_in.weight": torch.zeros(1)}
    save_file(whole, file)
    model = folder_model(folder, file, CPU, named=False)
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 32)
    assert torch.allclose(model.unet(x, t, context), theirs(x, t, context).sample, atol=1e-4)
    assert model.name == "other.safetensors"
    assert not any(p.requires_grad for p in model.unet.parameters())


def test_a_unet_in_parts_is_put_together(folder, tmp_path):
    other = tmp_path / "parts"
    shutil.copytree(folder, other)
    single = other / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(single)
    single.unlink()
    names = sorted(tensors)
    places = {}
    for number, some in enumerate((names[::2], names[1::2])):
        file = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in some}, other / "unet" / file)
        places |= dict.fromkeys(some, file)
    index = {"weight_map": places}
    (other / "unet" / f"{single.name}.index.json").write_text(json.dumps(index))
    ours = folder_model(folder, None, CPU, False).unet.state_dict()
    theirs = folder_model(other, None, CPU, False).unet.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_model_of_velocity_says_so(tmp_path):
    model = folder_model(
        write_folder(tmp_path / "v", prediction_type="v_prediction"), None, CPU, False
    )
    assert model.prediction_type is PredictionType.V


def test_names_of_encoders_change_with_their_weights_and_are_made_only_if_needed(folder, xl_folder):
    ours = folder_model(folder, None, CPU, named=True).encoders
    theirs = folder_model(xl_folder, None, CPU, named=True).encoders
    assert len({ours.image_name, ours.text_name, theirs.image_name, theirs.text_name}) == 4
    assert folder_model(folder, None, CPU, named=False).encoders.text_name == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "model_index.json").unlink(), "no model_index.json"),
        (lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "has no diff"),
        (lambda f: (f / "vae" / "config.json").unlink(), "can't be loaded as AutoencoderKL"),
        (lambda f: _edit(f / "unet" / "config.json", attention_head_dim=4), "attention heads"),
        (
            lambda f: _edit(f / "scheduler" / "scheduler_config.json", beta_schedule="linear"),
            "has the schedule linear",
        ),
        (
            lambda f: save_file(
                {"transformer.weight": torch.zeros(2)},
                f / "unet" / "diffusion_pytorch_model.safetensors",
            ),
            "is no UNet of Stable Diffusion",
        ),
    ],
)
def test_a_folder_that_is_another_thing_is_refused_in_words(change, said, folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    change(other)
    with pytest.raises(ValueError, match=said):
        folder_model(other, None, CPU, False)


def _edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="and this file as unet"):
        folder_model(file, None, CPU, False)
    with pytest.raises(ValueError, match="has no UNet in the layout"):
        unet_of_checkpoint(file)


def test_text_of_another_width_than_the_unet_reads_is_refused(folder, tmp_path):
    import diffusers

    other = diffusers.UNet2DConditionModel.from_config(
        {**diffusers_unet().config, "cross_attention_dim": 48}
    )
    file = tmp_path / "wide.safetensors"
    save_unet_file(file, unet_of_diffusers(other.state_dict(), "wide"), ABOUT)
    with pytest.raises(ValueError, match="give 32 numbers a token, the UNet reads 48"):
        folder_model(folder, file, CPU, False)


def controlnet_file(path, config, **changes):
    torch.manual_seed(4)
    net = ControlNet(replace(config, **changes))
    save_controlnet_file(path, net, ABOUT)
    return path, net


def test_a_controlnet_file_is_begun_from_as_it_is(folder, tmp_path):
    unet = folder_model(folder, None, CPU, False).unet
    path, net = controlnet_file(tmp_path / "c.safetensors", unet.config)
    found, _ = begin(path, unet, CPU, as_it_is=True)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), net.parameters(), strict=True))
    begun, news = begin(None, unet, CPU)
    assert torch.equal(begun.input_blocks[0][0].weight, unet.input_blocks[0][0].weight)
    assert "The encoder is the model's" in news


def test_a_controlnet_of_another_model_or_of_other_hints_is_refused(folder, tmp_path):
    unet = folder_model(folder, None, CPU, False).unet
    wide, _ = controlnet_file(tmp_path / "wide.safetensors", unet.config, context_dim=48)
    with pytest.raises(ValueError, match=r"context 48 against 32"):
        begin(wide, unet, CPU)
    grey, _ = controlnet_file(tmp_path / "grey.safetensors", unet.config, hint_channels=1)
    with pytest.raises(ValueError, match="reads hints of 1 channels"):
        begin(grey, unet, CPU, as_it_is=True)
    found, news = begin(grey, unet, CPU)
    assert found.config.hint_channels == 3
    assert "input_hint_block.0 is new" in news


def test_the_tiny_decoder_is_read_in_both_layouts(tmp_path):
    import diffusers

    torch.manual_seed(3)
    theirs = diffusers.AutoencoderTiny()
    save_file(theirs.state_dict(), tmp_path / "diffusers.safetensors")
    state = theirs.decoder.state_dict()
    numbered = {}
    for name, tensor in state.items():
        number, rest = name.removeprefix("layers.").split(".", 1)
        numbered[f"{int(number) + 1}.{rest}"] = tensor
    save_file(numbered, tmp_path / "original.safetensors")
    latents = torch.randn(1, 4, 8, 8)
    expected = theirs.decode(latents * 0.18215).sample
    for name in ("diffusers", "original"):
        decode = tiny_decoder(tmp_path / f"{name}.safetensors", 0.18215, CPU)
        assert torch.allclose(decode(latents), expected, atol=1e-5), name
    with pytest.raises(ValueError, match="no decoder of TAESD"):
        tiny_decoder(controlnet_of_other(tmp_path), 0.18215, CPU)


def controlnet_of_other(folder):
    save_file({"1.weight": torch.zeros(3)}, folder / "other.safetensors")
    return folder / "other.safetensors"


@pytest.mark.weights
def test_the_trained_tiny_decoder_decodes():
    """What its own encoder makes of a picture, at 23 dB: no layer can be another one."""
    import diffusers

    decoder = trained_file("taesd_decoder.safetensors")
    encoder = diffusers.AutoencoderTiny().encoder
    state = load_file(trained_file("taesd_encoder.safetensors"))
    encoder.load_state_dict({f"layers.{name}": tensor for name, tensor in state.items()})
    picture = photo("astronaut")
    with torch.no_grad():
        latents = encoder(picture * 2 - 1) / 0.18215
        decoded = tiny_decoder(decoder, 0.18215, CPU)(latents) / 2 + 0.5
    assert (decoded.clamp(0, 1) - picture).square().mean() < 10**-2.2
