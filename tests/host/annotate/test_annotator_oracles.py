"""Depth against the original code, which needs a working torchvision and timm.

controlnet_aux 0.0.10 and timm come beside ComfyUI's own packages, without what they depend on:
`pip install --no-deps --target <folder> controlnet_aux==0.0.10 timm`, with <folder> on PYTHONPATH.
Where they are missing, these tests are skipped; transformers' port (tests/annotators/test_depth.py)
still stands for 384 x 384.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.depth import DPTHybrid
from controlnet_pp.annotators.normal import annotate_normal
from torch import nn


@pytest.fixture(scope="module")
def midas(comfy_root: Path) -> ModuleType:
    """controlnet_aux.midas, without the package's own __init__, which imports all detectors."""
    if comfy_root.name.startswith("ComfyUI-"):
        pytest.skip("runs in the main ComfyUI only")
    pytest.importorskip("timm")
    spec = importlib.util.find_spec("controlnet_aux")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no controlnet_aux")
    if "controlnet_aux" not in sys.modules:
        sys.modules["controlnet_aux"] = package = ModuleType("controlnet_aux")
        package.__path__ = list(spec.submodule_search_locations)
    return importlib.import_module("controlnet_aux.midas")


@pytest.fixture(scope="module")
def network() -> DPTHybrid:
    """Random weights that keep activations at about one size, and most depths above 0."""
    model = DPTHybrid().eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("weight") and value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            continue
        fan_in = {4: value[0].numel() / 2, 2: value.shape[-1]}.get(value.ndim, 100)
        value.copy_(torch.randn(value.shape, generator=generator) / math.sqrt(fan_in))
    model.get_parameter("scratch.output_conv.4.bias").data.fill_(100)
    return model


@pytest.fixture(scope="module")
def reference(midas, network) -> nn.Module:
    depth = importlib.import_module("controlnet_aux.midas.midas.dpt_depth")
    model = depth.DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True)
    model.load_state_dict(network.state_dict(), strict=True)
    return model.eval()


def picture(height: int, width: int) -> np.ndarray:
    """uint8 RGB: coloured waves and a sharp-edged disc."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 127 * np.sin(x / 31 + k) * np.cos(y / (17 + 9 * k)) for k in range(3)]
    pixels = np.stack(waves, axis=-1)
    pixels[(x - width * 0.6) ** 2 + (y - height * 0.4) ** 2 < 80**2] = (220, 40, 90)
    return pixels.astype(np.uint8)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 128), (384, 384)])
def test_depth_network_equals_the_reference_on_tensors_of_any_size(network, reference, size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        depth = network.inverse_depth(x)
        assert torch.equal(depth[:, 0], reference(x))
    assert depth.std() > 1, "a flat map would prove nothing"


@pytest.mark.parametrize("size", [(512, 512), (448, 640)])
def test_whole_depth_and_normal_pipelines_equal_the_reference(midas, network, reference, size):
    pixels = picture(*size)
    detector = midas.MidasDetector(reference)
    short = min(size)
    expected_depth, expected_normal = detector(
        pixels,
        bg_th=0.4,
        depth_and_normal=True,
        detect_resolution=short,
        image_resolution=short,
        output_type="np",
    )
    image = torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255
    depth = network.annotate(image)[0, 0]
    assert np.array_equal((depth * 255).round().numpy(), expected_depth[..., 0])
    normal = (annotate_normal(network, image)[0] * 255).round().movedim(0, -1).numpy()
    assert np.array_equal(normal[..., ::-1], expected_normal), "the reference gives z, y, x"
    assert len(np.unique(expected_depth)) > 100
    assert expected_normal.std() > 5
