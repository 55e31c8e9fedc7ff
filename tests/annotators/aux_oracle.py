"""controlnet_aux, the reference preprocessors as a package, made comparable with our networks.

Its own `__init__` imports every detector and with them torchvision, mediapipe and timm. So an empty
package stands in for it, below which the wanted modules are imported as they are.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from controlnet_pp.annotators.softedge import HED, STAGES
from skimage import data
from torch import Tensor, nn

THIN_HED = ((4, 2), (6, 2), (6, 3), (8, 3), (8, 3))  # its five stages with a few channels only


def aux(name: str) -> ModuleType:
    """The module controlnet_aux.`name`, e.g. "hed" or "open_pose.model"."""
    parts = ["controlnet_aux", *name.split(".")]
    for end in range(1, len(parts)):  # packages without their __init__
        package = ".".join(parts[:end])
        if package not in sys.modules:
            spec = importlib.util.find_spec(package)
            assert spec is not None, (
                "the reference is missing: pip install --no-deps controlnet_aux"
            )
            assert spec.submodule_search_locations
            sys.modules[package] = stand_in = ModuleType(package)
            stand_in.__path__ = list(spec.submodule_search_locations)
    return importlib.import_module(".".join(parts))


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that keep activations at about the same size through all layers."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            continue
        noise = torch.randn(value.shape, generator=generator)
        fan_in = value[0].numel() if value.ndim == 4 else 200  # biases, means: a tenth
        value.copy_(noise * math.sqrt(2 / fan_in))
    return network.eval()


def twin(network: nn.Module, reference: nn.Module) -> nn.Module:
    """The reference network with the weights of ours; both must have the same names."""
    reference.load_state_dict(network.state_dict(), strict=True)
    return reference.eval()


def photo(height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3): a portrait where it is square, else a motorcycle in a workshop."""
    source = data.astronaut() if height == width else data.stereo_motorcycle()[0]
    return np.ascontiguousarray(source[:height, :width])


def as_tensor(*pictures: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) each -> (B, 3, H, W) in 0..1."""
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255


def as_pixels(maps: Tensor) -> np.ndarray:
    """(B, 1, H, W) in 0..1 -> uint8 (B, H, W), which must lose nothing."""
    pixels = (maps * 255).round()
    torch.testing.assert_close(pixels / 255, maps, rtol=0, atol=1e-6)
    return pixels[:, 0].to(torch.uint8).numpy()


def assert_not_trivial(pixels: np.ndarray) -> None:
    """A map that is all black or all white would agree with anything."""
    assert 0.02 < (pixels > 127).mean() < 0.98


def assert_same_map(found: Tensor, expected: Tensor) -> None:
    """Equal but for one 8-bit step in one of a thousand pixels.

    Convolutions choose their algorithm by the size of the batch, and algorithms round differently.
    """
    difference = (found - expected).abs()
    assert difference.max() < 1.01 / 255
    assert (difference > 0).float().mean() < 1e-3


def random_hed(seed: int = 0, stages: Sequence[tuple[int, int]] = STAGES) -> HED:
    """Random weights whose probabilities fill 0..1, and whose five scales count alike."""
    network = randomise(HED(stages=stages), seed)
    weights = network.state_dict()
    weights["norm"].fill_(120)
    weights["block1.convs.0.weight"].div_(60)
    with torch.no_grad():
        sides = network.sides(as_tensor(photo(128, 128)) * 255)
    for number, side in enumerate(sides, start=1):
        weight, bias = (weights[f"block{number}.projection.{name}"] for name in ("weight", "bias"))
        scale = 4 / side.std()
        weight.mul_(scale)
        bias.sub_(side.mean()).mul_(scale)
    return network


def reference_hed(network: HED) -> torch.nn.Module:
    """The reference's network, as wide as ours, with our weights."""
    hed = aux("hed")
    reference = hed.ControlNetHED_Apache2()
    channels = 3
    for name, stage in network.named_children():
        width = stage.projection.in_channels
        setattr(reference, name, hed.DoubleConvBlock(channels, width, len(stage.convs)))
        channels = width
    return twin(network, reference)
