"""CMU's convolutional pose machines: a VGG front end, then stages that each correct the last.

Body: Cao et al., arXiv 1611.08050; hand: Simon et al., arXiv 1704.07809. Layer names are those of
the published body_pose_model.pth and hand_pose_model.pth, which leave out the part up to the first
dot. Their weights are for NON-COMMERCIAL use only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

LIMB_MAPS = 38  # x and y of the field of each of the 19 limbs
JOINT_MAPS = 19  # 18 joints and the background
HAND_MAPS = 22  # 21 points and the background

_POOL = None
_Plan = Sequence[tuple[str, int, int, int] | None]  # name, inputs, outputs, kernel; or a pooling


class _Builder:
    """Makes convolutions from `operations`, each followed by a ReLU unless it is `linear`."""

    def __init__(
        self, operations: Any, dtype: torch.dtype | None, device: torch.device | str | None
    ) -> None:
        self.operations, self.where = operations, {"dtype": dtype, "device": device}

    def __call__(self, plan: _Plan, linear: str = "") -> nn.Sequential:
        layers = nn.Sequential()
        for number, step in enumerate(plan):
            if step is None:
                layers.add_module(f"pool{number}", nn.MaxPool2d(2))
                continue
            name, inputs, outputs, kernel = step
            layers.add_module(
                name,
                self.operations.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **self.where),
            )
            if name != linear:
                layers.add_module(f"relu_{name}", nn.ReLU(inplace=True))
        return layers


def _vgg(*last: tuple[str, int, int, int]) -> _Plan:
    return (
        ("conv1_1", 3, 64, 3),
        ("conv1_2", 64, 64, 3),
        _POOL,
        ("conv2_1", 64, 128, 3),
        ("conv2_2", 128, 128, 3),
        _POOL,
        ("conv3_1", 128, 256, 3),
        *((f"conv3_{n}", 256, 256, 3) for n in (2, 3, 4)),
        _POOL,
        ("conv4_1", 256, 512, 3),
        ("conv4_2", 512, 512, 3),
        *last,
    )


def _stage(number: int, inputs: int, outputs: int, branch: str = "") -> _Plan:
    """Five 7x7 and two 1x1 convolutions; `branch` is "_L1" (limbs) or "_L2" (joints)."""
    name = f"_stage{number}{branch}"
    return (
        (f"Mconv1{name}", inputs, 128, 7),
        *((f"Mconv{n}{name}", 128, 128, 7) for n in range(2, 6)),
        (f"Mconv6{name}", 128, 128, 1),
        (f"Mconv7{name}", 128, outputs, 1),
    )


class BodyStages(nn.Module):
    """Picture -> fields of the limbs and heat maps of the joints, at an eighth of its size."""

    def __init__(
        self,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        build = _Builder(operations, dtype, device)
        self.model0 = build(_vgg(("conv4_3_CPM", 512, 256, 3), ("conv4_4_CPM", 256, 128, 3)))
        for branch, maps in ((1, LIMB_MAPS), (2, JOINT_MAPS)):
            name = f"_CPM_L{branch}"
            first = build(
                (
                    *((f"conv5_{n}{name}", 128, 128, 3) for n in (1, 2, 3)),
                    (f"conv5_4{name}", 128, 512, 1),
                    (f"conv5_5{name}", 512, maps, 1),
                ),
                linear=f"conv5_5{name}",
            )
            self.add_module(f"model1_{branch}", first)
        for number in range(2, 7):
            for branch, maps in ((1, LIMB_MAPS), (2, JOINT_MAPS)):
                plan = _stage(number, 128 + LIMB_MAPS + JOINT_MAPS, maps, f"_L{branch}")
                # The published network ends the joints' last stage in a ReLU, only that one.
                last = "" if (number, branch) == (6, 2) else f"Mconv7_stage{number}_L{branch}"
                self.add_module(f"model{number}_{branch}", build(plan, linear=last))

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """BGR (B, 3, h, w) in -0.5..0.5, sides in multiples of 8 -> (B, 38, ...), (B, 19, ...)."""
        features = self.model0(x)
        limbs, joints = (self.get_submodule(f"model1_{branch}")(features) for branch in (1, 2))
        for number in range(2, 7):
            x = torch.cat([limbs, joints, features], dim=1)
            limbs, joints = (self.get_submodule(f"model{number}_{b}")(x) for b in (1, 2))
        return limbs, joints


class HandStages(nn.Module):
    """Picture of one hand -> heat maps of its 21 points and the rest, at an eighth of its size."""

    def __init__(
        self,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        build = _Builder(operations, dtype, device)
        self.model1_0 = build(
            _vgg(
                ("conv4_3", 512, 512, 3),
                ("conv4_4", 512, 512, 3),
                ("conv5_1", 512, 512, 3),
                ("conv5_2", 512, 512, 3),
                ("conv5_3_CPM", 512, 128, 3),
            )
        )
        self.model1_1 = build(
            (("conv6_1_CPM", 128, 512, 1), ("conv6_2_CPM", 512, HAND_MAPS, 1)), "conv6_2_CPM"
        )
        for number in range(2, 7):
            plan = _stage(number, 128 + HAND_MAPS, HAND_MAPS)
            self.add_module(f"model{number}", build(plan, linear=f"Mconv7_stage{number}"))

    def stages(self, x: Tensor) -> Tensor:
        """BGR (B, 3, h, w) in -0.5..0.5, sides in multiples of 8 -> (B, 22, h / 8, w / 8)."""
        features = self.model1_0(x)
        maps = self.model1_1(features)
        for number in range(2, 7):
            maps = self.get_submodule(f"model{number}")(torch.cat([maps, features], dim=1))
        return maps
