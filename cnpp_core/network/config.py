"""The shape of a Stable Diffusion UNet or ControlNet, and the families people know by name."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that decides the layout of a network; the defaults are SD1.5.

    Widths are in channels. Lists per ResBlock run from the picture inwards (``transformer_depth``)
    or from the middle outwards (``transformer_depth_output``). Raises ValueError where the lists
    contradict each other.
    """

    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1, 1, 1, 0, 0)
    transformer_depth_middle: int = 1  # -1: the middle block is a single ResBlock
    transformer_depth_output: tuple[int, ...] | None = None  # None: the decoder mirrors the encoder
    context_dim: int = 768
    adm_in_channels: int | None = None
    num_heads: int = 8  # where head_channels is None
    head_channels: int | None = None
    use_linear_in_transformer: bool = False
    in_channels: int = 4
    out_channels: int = 4
    hint_channels: int = 3
    union_types: int | None = None

    def __post_init__(self) -> None:
        if len(self.num_res_blocks) != len(self.channel_mult):
            raise ValueError(
                f"channel_mult has {len(self.channel_mult)} levels, "
                f"num_res_blocks has {len(self.num_res_blocks)}; they must agree."
            )
        if len(self.transformer_depth) != sum(self.num_res_blocks):
            raise ValueError(
                f"transformer_depth names {len(self.transformer_depth)} ResBlocks, "
                f"num_res_blocks makes {sum(self.num_res_blocks)}; they must agree."
            )
        decoder_blocks = sum(n + 1 for n in self.num_res_blocks)
        if len(self.decoder_depths) != decoder_blocks:
            raise ValueError(
                f"transformer_depth_output names {len(self.decoder_depths)} ResBlocks, "
                f"the decoder has {decoder_blocks}; they must agree."
            )

    @property
    def family(self) -> str:
        """The name users know: "SD1.5", "SD2.x", "SDXL", or "custom"."""
        encoder = (self.model_channels, self.channel_mult, self.context_dim)
        return _FAMILIES.get(encoder, "custom")

    @property
    def time_embed_dim(self) -> int:
        return 4 * self.model_channels

    @property
    def decoder_depths(self) -> tuple[int, ...]:
        """Transformer depth of each ResBlock of the decoder, in the order of ``output_blocks``."""
        if self.transformer_depth_output is not None:
            return self.transformer_depth_output
        ends = accumulate(self.num_res_blocks)
        deepest = [self.transformer_depth[end - 1] for end in ends]
        levels = zip(reversed(deepest), reversed(self.num_res_blocks), strict=True)
        return tuple(depth for depth, n in levels for _ in range(n + 1))

    @property
    def block_layout(self) -> tuple[tuple[int, int], ...]:
        """(channels, downscale of the latent) of every residual, shallow to deep, middle last."""
        layout = [(self.model_channels, 1)]
        last_level = len(self.channel_mult) - 1
        for level, (mult, n) in enumerate(zip(self.channel_mult, self.num_res_blocks, strict=True)):
            channels = mult * self.model_channels
            layout += [(channels, 2**level)] * n
            if level != last_level:
                layout.append((channels, 2 ** (level + 1)))
        layout.append(layout[-1])
        return tuple(layout)

    @property
    def block_channels(self) -> tuple[int, ...]:
        return tuple(channels for channels, _ in self.block_layout)

    @property
    def blocks(self) -> int:
        """How many residuals a ControlNet of this shape gives: 13 for SD1.5, 10 for SDXL."""
        return len(self.block_layout)

    def heads(self, channels: int) -> int:
        """Attention heads at a width: a fixed number in SD1.5, a fixed width per head later."""
        return channels // self.head_channels if self.head_channels else self.num_heads


_FAMILIES = {
    (320, (1, 2, 4, 4), 768): "SD1.5",
    (320, (1, 2, 4, 4), 1024): "SD2.x",
    (320, (1, 2, 4), 2048): "SDXL",
}

SD15 = NetworkConfig()
SD21 = NetworkConfig(context_dim=1024, head_channels=64, use_linear_in_transformer=True)
SDXL = NetworkConfig(
    channel_mult=(1, 2, 4),
    num_res_blocks=(2, 2, 2),
    transformer_depth=(0, 0, 2, 2, 10, 10),
    transformer_depth_middle=10,
    context_dim=2048,
    adm_in_channels=2816,
    head_channels=64,
    use_linear_in_transformer=True,
)
