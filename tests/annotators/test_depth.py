"""DPT-hybrid against transformers' port of it, and what must hold at any size.

The port runs at 384 x 384 only. Other sizes are compared with the original code in
tests/host/test_annotator_oracles.py, which needs torchvision and timm.
"""

from __future__ import annotations

import logging
import math
import re

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.depth import DPTHybrid, stretch
from controlnet_pp.annotators.dpt import _pad_same
from controlnet_pp.annotators.weights import manifest
from controlnet_pp.tests.annotators.aux_oracle import photo, randomise
from torch import Tensor, nn
from transformers import DPTConfig, DPTForDepthEstimation


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255


def ported_name(name: str) -> str:
    """A published name in transformers' words; "" for the parts of which it has none."""
    bit = "dpt.embeddings.backbone.bit"
    rules = [
        (r"^pretrained\.model\.(norm)\.", "dpt.layernorm."),
        (r"^pretrained\.model\.cls_token$", "dpt.embeddings.cls_token"),
        (r"^pretrained\.model\.pos_embed$", "dpt.embeddings.position_embeddings"),
        (r"^pretrained\.model\.patch_embed\.proj\.", "dpt.embeddings.projection."),
        (
            r"^pretrained\.model\.patch_embed\.backbone\.stem\.conv\.",
            f"{bit}.embedder.convolution.",
        ),
        (r"^pretrained\.model\.patch_embed\.backbone\.stem\.norm\.", f"{bit}.embedder.norm."),
        (
            r"^pretrained\.model\.patch_embed\.backbone\.stages\.(\d)\.blocks\.",
            rf"{bit}.encoder.stages.\1.layers.",
        ),
        (r"^pretrained\.model\.blocks\.(\d+)\.norm1\.", r"dpt.encoder.layer.\1.layernorm_before."),
        (r"^pretrained\.model\.blocks\.(\d+)\.norm2\.", r"dpt.encoder.layer.\1.layernorm_after."),
        (
            r"^pretrained\.model\.blocks\.(\d+)\.attn\.proj\.",
            r"dpt.encoder.layer.\1.attention.output.dense.",
        ),
        (
            r"^pretrained\.model\.blocks\.(\d+)\.mlp\.fc1\.",
            r"dpt.encoder.layer.\1.intermediate.dense.",
        ),
        (r"^pretrained\.model\.blocks\.(\d+)\.mlp\.fc2\.", r"dpt.encoder.layer.\1.output.dense."),
        (r"^scratch\.output_conv\.", "head.head."),
    ]
    for pattern, replacement in rules:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name)
    neck = "neck.reassemble_stage"
    if found := re.match(r"pretrained\.act_postprocess(\d)\.(0\.project\.0|3|4)\.(\w+)", name):
        level = int(found[1]) - 1
        part = {
            "0.project.0": f"{neck}.readout_projects.{level}.0",
            "3": f"{neck}.layers.{level}.projection",
            "4": f"{neck}.layers.{level}.resize",
        }[found[2]]
        return f"{part}.{found[3]}"
    if found := re.match(r"scratch\.layer(\d)_rn\.(\w+)", name):
        return f"neck.convs.{int(found[1]) - 1}.{found[2]}"
    if found := re.match(r"scratch\.refinenet(\d)\.(.+)", name):
        part = found[2].replace("out_conv", "projection").replace("resConfUnit", "residual_layer")
        part = re.sub(r"\bconv(\d)", r"convolution\1", part)
        return f"neck.fusion_stage.layers.{4 - int(found[1])}.{part}"
    return ""


def ported(network: DPTHybrid) -> nn.Module:
    config = DPTConfig(
        is_hybrid=True,
        backbone_featmap_shape=[1, 1024, 24, 24],
        neck_hidden_sizes=[256, 512, 768, 768],
        neck_ignore_stages=[0, 1],
        readout_type="project",
        layer_norm_eps=1e-6,
    )
    with torch.device("meta"):
        model = DPTForDepthEstimation(config)
    weights = {}
    for name, value in network.state_dict().items():
        if found := re.match(r"pretrained\.model\.blocks\.(\d+)\.attn\.qkv\.(\w+)", name):
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                where = f"dpt.encoder.layer.{found[1]}.attention.attention.{part}.{found[2]}"
                weights[where] = rows
        elif new := ported_name(name):
            weights[new] = value
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


@pytest.fixture(scope="module")
def network() -> DPTHybrid:
    model = randomise(DPTHybrid())
    for name, value in model.state_dict().items():
        if value.ndim == 2:  # linear layers, which `randomise` takes for something else
            generator = torch.Generator().manual_seed(value.numel())
            value.normal_(generator=generator).mul_(value.shape[1] ** -0.5)
        elif name.endswith("pos_embed"):
            value.mul_(3)
    model.get_parameter("scratch.output_conv.4.bias").data.fill_(100)  # else mostly cut off at 0
    assert isinstance(model, DPTHybrid)
    return model


def test_parameter_count_and_names_are_those_of_the_published_file():
    with torch.device("meta"):
        model = DPTHybrid()
    assert sum(p.numel() for p in model.parameters()) == 123_146_985
    assert {n: tuple(v.shape) for n, v in model.state_dict().items()} == manifest("dpt_hybrid")


def test_network_equals_transformers_port_at_its_only_size(network):
    image = as_tensor(photo(384, 384))
    with torch.no_grad():
        depth = network.depth(image)[:, 0]
        expected = ported(network)(image * 2 - 1).predicted_depth
    assert depth.std() > 0.1 * depth.mean() > 0, "a flat map would prove nothing"
    torch.testing.assert_close(depth, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "total"),
    [(384, 7, 2, 5), (96, 3, 2, 1), (95, 3, 2, 2), (10, 3, 1, 2), (9, 1, 2, 0)],
)
def test_padding_leaves_the_sides_that_tensorflows_same_leaves(side, kernel, stride, total):
    x = torch.ones(1, 1, side, side)
    padded = _pad_same(x, kernel, stride)
    assert padded.shape[-1] - side == total
    assert (padded.shape[-1] - kernel) // stride + 1 == math.ceil(side / stride)
    assert padded[0, 0, 0].sum() == (0 if total > 1 else side), "the odd pixel goes right and below"


def test_condition_is_the_soft_map_in_truncated_8_bit_steps(network):
    image = as_tensor(photo(96, 128))
    with torch.no_grad():
        soft = network(image)
    condition = network.annotate(image)
    assert condition.shape == (1, 1, 96, 128)
    assert (soft.min(), soft.max()) == (0, 1)
    assert torch.equal((condition * 255).round(), (soft * 255).floor())


@pytest.mark.parametrize("size", [(480, 641), (700, 333), (33, 31), (1, 5)])
def test_any_size_is_kept_and_the_padding_never_shows(network, size, monkeypatch):
    # In place of the network: inverse depth that grows to the right and down, also in the padding.
    def ramp(x: Tensor) -> Tensor:
        assert x.shape[-2] % 32 == x.shape[-1] % 32 == 0
        y, right = torch.meshgrid(*(torch.arange(side) for side in x.shape[-2:]), indexing="ij")
        return (y + right).float().expand(len(x), 1, -1, -1)

    monkeypatch.setattr(network, "inverse_depth", ramp)
    soft = network(torch.full((1, 3, *size), 0.5))
    assert soft.shape == (1, 1, *size)
    assert soft[0, 0, -1, -1] == 1, "the nearest point is in the picture, not in its padding"
    assert soft[0, 0, 0, 0] == 0


def test_padding_repeats_the_border(network):
    image = as_tensor(photo(64, 64))[..., :50, :41]
    with torch.no_grad():
        depth = network.depth(image)
        drawn = nn.functional.pad(image, (0, 64 - 41, 0, 64 - 50), "replicate")
        assert torch.equal(depth, network.depth(drawn)[..., :50, :41])


def test_batch_of_four_equals_four_singles(network):
    images = torch.cat([as_tensor(photo(64, 64))[..., x : x + 32] for x in (0, 9, 20, 32)])
    images[3] *= 0.5
    with torch.no_grad():
        expected = torch.cat([network.depth(image[None]) for image in images])
        torch.testing.assert_close(
            network.depth(images), expected, rtol=0, atol=1e-3 * float(expected.std())
        )


def test_soft_map_sends_finite_gradients_to_the_picture(network):
    image = as_tensor(photo(64, 96)).requires_grad_()
    network(image).square().mean().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert (image.grad != 0).float().mean() > 0.5


def test_flat_depth_is_a_black_map_with_a_log_line(network, monkeypatch, caplog):
    monkeypatch.setattr(network, "inverse_depth", lambda x: torch.full_like(x[:, :1], 3.0))
    with caplog.at_level(logging.INFO):
        condition = network.annotate(torch.rand(2, 3, 32, 32))
    assert condition.sum() == 0
    assert "no depth in 2 of 2 pictures" in caplog.text


def test_stretch_of_a_flat_picture_has_a_finite_gradient():
    depth = torch.full((1, 1, 4, 4), 2.0, requires_grad=True)
    stretch(depth).sum().backward()
    assert depth.grad is not None
    assert depth.grad.isfinite().all()


def test_half_precision_network_takes_pictures_in_single_precision(network):
    image = as_tensor(photo(32, 32))
    with torch.no_grad():
        expected = network.depth(image)
        try:
            found = network.half().depth(image)
        finally:
            network.float()  # rounded, which no later test may depend on
    assert found.dtype == torch.float32
    assert (found - expected).std() < 0.1 * expected.std()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(1, 1, 8, 8), r"Depth \(MiDaS\) got a tensor of shape \(1, 1, 8, 8\).*RGB"),
        (torch.full((1, 3, 8, 8), math.nan), r"Depth \(MiDaS\).*NaN"),
        (torch.full((1, 3, 8, 8), 255.0), r"Depth \(MiDaS\).*255"),
    ],
)
def test_wrong_pictures_are_refused_by_name(network, image, words):
    with pytest.raises(ValueError, match=words):
        network.annotate(image)
