"""The network of MiDaS 3.0 "DPT-hybrid": ResNet-50 stages, a ViT-B on top, a convolutional decoder.

Ranftl et al., "Vision Transformers for Dense Prediction" (arXiv 2103.13413). Parts are named as in
the published dpt_hybrid-midas-501f0c75.pt. `transformers` has the same network for 384 x 384 only;
here the position embedding is resized, so that any multiple of 32 works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((256, 3), (512, 4), (1024, 9))  # width and number of bottlenecks
WIDTH, DEPTH, HEADS = 768, 12, 12
GRID = 24  # patches on a side at the training size of 384
PATCH = 16  # pixels
TAPPED = (8, 11)  # transformer blocks whose outputs go to the decoder, beside stages 0 and 1
FEATURES = 256
CLASSES = 1000  # of the head that the published file still holds; nothing uses it
STANDARDISE_EPS = 1e-8
LAYER_NORM_EPS = 1e-6

Make = Callable[..., nn.Module]  # name of a layer in `operations`, and its arguments


class DPT(nn.Module):
    """(B, 3, H, W) in -1..1, sides in multiples of 32 -> inverse depth (B, 1, H, W), at least 0."""

    def __init__(
        self,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()

        def make(kind: str, *args: Any, **options: Any) -> nn.Module:
            return getattr(operations, kind)(*args, **options, dtype=dtype, device=device)

        self.pretrained = _Encoder(make, dtype, device)
        self.scratch = _Decoder(make)

    def inverse_depth(self, x: Tensor) -> Tensor:
        """x (B, 3, H, W) in -1..1, sides in multiples of 32 -> inverse depth (B, 1, H, W)."""
        return self.scratch(self.pretrained(x))


class _Encoder(nn.Module):
    """Picture -> features at 1/4, 1/8, 1/16 and 1/32 of its size."""

    def __init__(self, make: Make, dtype: Any, device: Any) -> None:
        super().__init__()
        self.model = _HybridTransformer(make, dtype, device)
        # Places 1 and 2 are where the published code reshapes tokens to maps.
        reshape = (nn.Identity(), nn.Identity())
        self.act_postprocess3 = nn.Sequential(
            _Readout(make), *reshape, make("Conv2d", WIDTH, WIDTH, 1)
        )
        self.act_postprocess4 = nn.Sequential(
            _Readout(make),
            *reshape,
            make("Conv2d", WIDTH, WIDTH, 1),
            make("Conv2d", WIDTH, WIDTH, 3, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        first, second, third, fourth = self.model(x)
        size = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        maps = [first, second]
        for tokens, steps in ((third, self.act_postprocess3), (fourth, self.act_postprocess4)):
            features = steps[0](tokens).transpose(1, 2).unflatten(2, size)
            maps.append(steps[1:](features))
        return maps


class _Decoder(nn.Module):
    """The four features, from coarse to fine, each step doubling the size -> inverse depth."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        for number, width in enumerate((256, 512, WIDTH, WIDTH), start=1):
            conv = make("Conv2d", width, FEATURES, 3, padding=1, bias=False)
            self.add_module(f"layer{number}_rn", conv)
        for number in range(1, 5):
            self.add_module(f"refinenet{number}", _Fusion(make))
        half = FEATURES // 2
        self.output_conv = nn.Sequential(
            make("Conv2d", FEATURES, half, 3, padding=1),
            _Double(),
            make("Conv2d", half, 32, 3, padding=1),
            nn.ReLU(),
            make("Conv2d", 32, 1, 1),
            nn.ReLU(),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        path: Tensor | None = None
        for number in (4, 3, 2, 1):
            level = self.get_submodule(f"layer{number}_rn")(maps[number - 1])
            path = self.get_submodule(f"refinenet{number}")(level, path)
        return self.output_conv(path)


class _Fusion(nn.Module):
    """Adds a finer level to the coarser path and doubles the size."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.resConfUnit1 = _ResidualUnit(make)
        self.resConfUnit2 = _ResidualUnit(make)
        self.upsample = _Double()
        self.out_conv = make("Conv2d", FEATURES, FEATURES, 1)

    def forward(self, level: Tensor, path: Tensor | None) -> Tensor:
        joined = level if path is None else path + self.resConfUnit1(level)
        return self.out_conv(self.upsample(self.resConfUnit2(joined)))


class _ResidualUnit(nn.Module):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.conv1 = make("Conv2d", FEATURES, FEATURES, 3, padding=1)
        self.conv2 = make("Conv2d", FEATURES, FEATURES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x.relu()).relu()) + x


class _Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class _Readout(nn.Module):
    """Tells every patch what the class token knows: (B, 1 + N, C) -> (B, N, C)."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.project = nn.Sequential(make("Linear", 2 * WIDTH, WIDTH), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, 1:]
        return self.project(torch.cat([patches, tokens[:, :1].expand_as(patches)], dim=-1))


class _HybridTransformer(nn.Module):
    """ViT-B whose patches are the features of three ResNet stages (timm: vit_base_r50_s16_384)."""

    def __init__(self, make: Make, dtype: Any, device: Any) -> None:
        super().__init__()
        where = {"dtype": dtype, "device": device}
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH, **where))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID * GRID, WIDTH, **where))
        self.patch_embed = nn.Module()
        self.patch_embed.backbone = _ResNet(make, dtype, device)
        self.patch_embed.proj = make("Conv2d", STAGES[-1][0], WIDTH, 1)
        self.blocks = nn.Sequential(*(_Block(make) for _ in range(DEPTH)))
        # The rest of the classifier: in the file, but what the decoder reads comes before it.
        self.norm = make("LayerNorm", WIDTH, eps=LAYER_NORM_EPS)
        self.head = make("Linear", WIDTH, CLASSES)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> two stages as maps, two blocks as tokens (B, 1 + H W / 256, C)."""
        features = self.patch_embed.get_submodule("backbone")(x)
        patches = self.patch_embed.get_submodule("proj")(features[-1])
        tokens = patches.flatten(2).transpose(1, 2)
        token = self.cls_token.to(tokens).expand(len(tokens), -1, -1)
        tokens = torch.cat([token, tokens], dim=1) + self._positions(patches)
        tapped = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            if number in TAPPED:
                tapped.append(tokens)
        return [*features[:2], *tapped]

    def _positions(self, patches: Tensor) -> Tensor:
        """The position embedding, (1, 1 + N, C), resized to the patches' grid."""
        embedding = self.pos_embed.to(patches)
        grid = embedding[:, 1:].transpose(1, 2).unflatten(2, (GRID, GRID))
        grid = F.interpolate(grid, patches.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([embedding[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class _Block(nn.Module):
    """A transformer block that normalises first."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.norm1 = make("LayerNorm", WIDTH, eps=LAYER_NORM_EPS)
        self.attn = _Attention(make)
        self.norm2 = make("LayerNorm", WIDTH, eps=LAYER_NORM_EPS)
        self.mlp = _Perceptron(make)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.qkv = make("Linear", WIDTH, 3 * WIDTH)
        self.proj = make("Linear", WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Perceptron(nn.Module):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.fc1 = make("Linear", WIDTH, 4 * WIDTH)
        self.fc2 = make("Linear", 4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _ResNet(nn.Module):
    """BiT's ResNet with standardised weights and group norm; gives all three stages."""

    def __init__(self, make: Make, dtype: Any, device: Any) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv = _StandardisedConv(3, 64, 7, 2, dtype, device)
        self.stem.norm = make("GroupNorm", 32, 64)
        self.stages = nn.Sequential()
        inputs = 64
        for stage, (width, depth) in enumerate(STAGES):
            blocks = nn.Sequential()
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(_Bottleneck(inputs, width, stride, make, dtype, device))
                inputs = width
            self.stages.append(nn.Sequential())
            self.stages[stage].add_module("blocks", blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem.get_submodule("norm")(self.stem.get_submodule("conv")(x)).relu()
        x = F.max_pool2d(_pad_same(x, 3, 2, float("-inf")), 3, 2)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _Bottleneck(nn.Module):
    def __init__(
        self, inputs: int, width: int, stride: int, make: Make, dtype: Any, device: Any
    ) -> None:
        super().__init__()
        narrow = width // 4
        if inputs != width:
            self.downsample = nn.Module()
            self.downsample.conv = _StandardisedConv(inputs, width, 1, stride, dtype, device)
            self.downsample.norm = make("GroupNorm", 32, width)
        else:
            self.downsample = None
        self.conv1 = _StandardisedConv(inputs, narrow, 1, 1, dtype, device)
        self.norm1 = make("GroupNorm", 32, narrow)
        self.conv2 = _StandardisedConv(narrow, narrow, 3, stride, dtype, device)
        self.norm2 = make("GroupNorm", 32, narrow)
        self.conv3 = _StandardisedConv(narrow, width, 1, 1, dtype, device)
        self.norm3 = make("GroupNorm", 32, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(self.conv1(x)).relu()
        h = self.norm2(self.conv2(h)).relu()
        h = self.norm3(self.conv3(h))
        if self.downsample is not None:
            down = self.downsample
            x = down.get_submodule("norm")(down.get_submodule("conv")(x))
        return (h + x).relu()


class _StandardisedConv(nn.Conv2d):
    """Every output's weights are brought to mean 0 and variance 1 first (arXiv 1903.10520).

    Not from `operations`: what those cast or move is the stored weight, not the standardised one.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, dtype: Any, device: Any
    ) -> None:
        super().__init__(
            inputs, outputs, kernel, stride=stride, bias=False, dtype=dtype, device=device
        )

    def forward(self, input: Tensor) -> Tensor:
        rows = self.weight.to(input.device).float().flatten(1)[None]
        rows = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=STANDARDISE_EPS)
        weight = rows.view(self.weight.shape).to(input.dtype)
        padded = _pad_same(input, self.kernel_size[0], self.stride[0])
        return F.conv2d(padded, weight, stride=self.stride)


def _pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Padding that leaves ceil(side / stride) pixels, the odd one right and below (TensorFlow)."""
    down, right = (max(kernel - (side % stride or stride), 0) for side in x.shape[-2:])
    return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2), value=value)
