"""Evaluation with networks: random weights in the published files, tiny transformers models."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from controlnet_pp.annotators import hub
from controlnet_pp.annotators.ade20k import CLASSES, to_colours
from controlnet_pp.annotators.lineart import LineArt
from controlnet_pp.annotators.softedge import HED
from controlnet_pp.annotators.weights import WEIGHTS
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.evaluate.command import _device, _parser, _source, main
from controlnet_pp.evaluate.extras import clip_score
from controlnet_pp.evaluate.pairs import find_pairs
from controlnet_pp.evaluate.published import depth_model, segmenter
from controlnet_pp.evaluate.records import Shard
from controlnet_pp.evaluate.sources import Source, annotator_for
from PIL import Image
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

SIZE = 192
CPU = torch.device("cpu")


def picture(seed: int, size: int = SIZE) -> Image.Image:
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).movedim(-1, 0)[None] / 255


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    for value in network.parameters():
        if value.ndim > 1:
            torch.nn.init.kaiming_normal_(value)
    return network.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[Path, dict[str, torch.nn.Module]]:
    """Files as they are published, with random numbers, and the networks that these are of."""
    folder = tmp_path_factory.mktemp("weights")
    networks = {"hed": randomised(HED()), "lineart": randomised(LineArt())}
    for key, network in networks.items():
        torch.save(network.state_dict(), folder / WEIGHTS[key].name)
    return folder, networks


def folders(root: Path, condition: torch.Tensor) -> list[str]:
    for name in ("pictures", "conditions"):
        (root / name).mkdir()
    picture(1).save(root / "pictures" / "one.png")
    pixels = (condition[0, 0] * 255).round().byte().numpy()
    Image.fromarray(pixels).save(root / "conditions" / "one.png")
    paths = [str(root / name) for name in ("pictures", "conditions")]
    return [*paths, "--out", str(root / "out"), "--patience", "0"]


def test_softedge_is_scored_with_the_weights_that_are_found(tmp_path, weights, capsys):
    folder, networks = weights
    condition = networks["hed"].annotate(tensor(picture(2)))
    found = networks["hed"].annotate(tensor(picture(1)))
    expected = ms_ssim(found, condition, data_range=1.0, normalize="relu").item()
    arguments = folders(tmp_path, condition)
    assert main(["softedge", *arguments, "--weights", str(folder)]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("MS-SSIM"))
    assert float(line.split()[-1]) == pytest.approx(expected, abs=1e-3)  # the last of 8 bits


def test_lineart_is_scored_with_the_published_inversion(tmp_path, weights, capsys):
    folder, networks = weights
    condition = networks["lineart"].annotate(tensor(picture(2)))
    with torch.no_grad():
        drawing = (networks["lineart"].generator(tensor(picture(1))) * 255).byte()
    expected = ms_ssim((1 - drawing) / 255, condition, data_range=1.0, normalize="relu").item()
    arguments = folders(tmp_path, condition)
    assert main(["lineart", *arguments, "--weights", str(folder)]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("MS-SSIM"))
    assert float(line.split()[-1]) == pytest.approx(expected, abs=1e-3)


def test_a_method_that_a_kind_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"no method fine .* one of cnpp, cv2"):
        annotator_for(Condition.CANNY, Source([]), "fine")
    with pytest.raises(ValueError, match=r"depth has none"):
        annotator_for(Condition.DEPTH, Source([]), "fine")


def test_missing_weights_are_named_with_the_option_that_fetches_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Add --download, or get it from") as caught:
        annotator_for(Condition.SOFTEDGE, Source([tmp_path]))
    assert "node" not in str(caught.value)


def test_weights_are_fetched_where_that_was_allowed(tmp_path, monkeypatch):
    asked = []

    def download(key: str, folder: Path) -> Path:
        asked.append((key, folder))
        if len(asked) > 1:
            raise RuntimeError("the server is away")
        return folder / "fetched"

    monkeypatch.setattr("controlnet_pp.annotators.weights.download", download)
    source = Source([tmp_path / "a", tmp_path / "b"], download=True)
    assert source.find("hed") == tmp_path / "a" / "fetched"
    assert asked == [("hed", tmp_path / "a")]
    with pytest.raises(ValueError, match="the server is away"):
        source.find("hed")


@pytest.mark.parametrize(("local_rank", "device"), [(0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0")])
def test_processes_take_the_gpus_in_turn(monkeypatch, local_rank, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    shard, paths = Shard(local_rank, 3, local_rank), ["canny", "a", "b"]
    assert _device(_parser().parse_args(paths), shard) == torch.device(device)
    assert _device(_parser().parse_args([*paths, "--device", "cpu"]), shard) == CPU


def test_the_hub_is_looked_for_where_its_own_tools_were_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert hub.cache_folders() == [tmp_path / "home" / "hub"]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert hub.cache_folders() == [tmp_path / "cache"]
    options = _parser().parse_args(["canny", "a", "b"])
    assert tmp_path / "cache" in _source(options, Shard()).folders


def test_a_mirror_of_the_hub_is_asked_instead(monkeypatch):
    url = f"{hub.HUB}/lllyasviel/Annotators/resolve/main/ControlNetHED.pth"
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert hub.mirrored(url) == url
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert hub.mirrored(url) == url.replace(hub.HUB, "https://mirror.example")
    assert hub.mirrored("https://other.example/a") == "https://other.example/a"


# The paper's evaluators


@pytest.fixture(scope="module")
def dpt(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = transformers.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    folder = tmp_path_factory.mktemp("dpt")
    transformers.DPTForDepthEstimation(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.DPTImageProcessor(size=size).save_pretrained(folder)
    return folder


def test_depth_by_dpt_is_what_the_published_code_gets_from_it(dpt):
    images = [picture(seed) for seed in range(3)]
    model = transformers.DPTForDepthEstimation.from_pretrained(dpt).eval()
    processor = transformers.DPTImageProcessor.from_pretrained(dpt)
    with torch.no_grad():
        expected = model(**processor(images=images, return_tensors="pt")).predicted_depth
        found = depth_model(dpt, CPU)(torch.cat([tensor(image) for image in images]))
    torch.testing.assert_close(found[:, 0], expected.clamp(min=0))
    assert found.std() > 0
    assert not depth_model(dpt, CPU)(tensor(images[0])).requires_grad


def test_a_folder_with_another_model_is_refused(dpt, tmp_path):
    with pytest.raises(ValueError, match=r"holds a dpt model; mask2former is needed"):
        segmenter(dpt, CPU)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        depth_model(tmp_path, CPU)


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    labels = dict(enumerate(CLASSES))
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        hidden_dim=32,
        mask_feature_size=32,
        feature_size=32,
        num_attention_heads=2,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        id2label=labels,
        label2id={name: k for k, name in labels.items()},
    )
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    for name, value in model.named_parameters():  # as initialised, all queries are alike
        if "class_predictor" in name or "mask_embedder" in name or "queries" in name:
            torch.nn.init.normal_(value, std=1.0)
    folder = tmp_path_factory.mktemp("mask2former")
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.Mask2FormerImageProcessor(size=size).save_pretrained(folder)
    return folder


def test_segmentation_by_mask2former_is_what_transformers_makes_of_it(mask2former):
    images = [picture(seed, 96) for seed in range(2)]
    model = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(mask2former).eval()
    processor = transformers.Mask2FormerImageProcessor.from_pretrained(mask2former)
    with torch.no_grad():
        outputs = model(**processor(images=images, return_tensors="pt"))
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[(96, 96)] * 2)
        found = segmenter(mask2former, CPU)(torch.cat([tensor(image) for image in images]))
    assert torch.equal(found[:, 0], torch.stack(maps))
    assert len(found.unique()) > 2


def test_pictures_of_a_directory_are_segmented_and_scored_at_once(tmp_path, mask2former, capsys):
    for name in ("pictures", "conditions"):
        (tmp_path / name).mkdir()
    classes = segmenter(mask2former, CPU)
    with torch.no_grad():
        for seed in range(2):
            picture(seed, 96).save(tmp_path / "pictures" / f"{seed}.png")
            numbers = classes(tensor(picture(seed, 96)))
            colours = (to_colours(numbers[:, 0])[0] * 255).round().byte().movedim(0, -1).numpy()
            Image.fromarray(colours).save(tmp_path / "conditions" / f"{seed}.png")
    arguments = [str(tmp_path / name) for name in ("pictures", "conditions")]
    out = ["--out", str(tmp_path / "out"), "--patience", "0", "--model", str(mask2former)]
    assert main(["seg", *arguments, *out]) == 0
    assert "mIoU x 100                   100.00" in capsys.readouterr().out


# CLIP


def test_clip_score_is_the_cosine_of_picture_and_prompt(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "conditions").mkdir()
    for name in ("red", "blue"):
        for folder in ("pictures", "conditions"):
            Image.new("RGB", (8, 8), name).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "prompts.json").write_text('{"red": "red", "blue": "red"}')
    asked = []

    class Metric:
        """torchmetrics' CLIPScore, with colours in the place of what CLIP sees."""

        def __init__(self, model_name_or_path: str) -> None:
            assert model_name_or_path == "openai/clip-vit-base-patch16"

        def to(self, _device):
            return self

        def update(self, pixels: torch.Tensor, prompts: list[str]) -> None:
            assert pixels.dtype == torch.uint8
            asked.append(100.0 if (prompts == ["red"]) == bool(pixels[0, 0, 0, 0]) else 0.0)

        def compute(self) -> torch.Tensor:
            return torch.tensor(asked).mean()

    module = importlib.import_module("torchmetrics.multimodal.clip_score")
    monkeypatch.setattr(module, "CLIPScore", Metric)
    pairs = find_pairs(tmp_path / "pictures", tmp_path / "conditions")
    assert clip_score(pairs, tmp_path / "prompts.json", CPU) == 50
