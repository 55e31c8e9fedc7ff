"""Networks of every family, narrow enough for a test."""

from __future__ import annotations

from dataclasses import replace

from controlnet_pp.cnpp_core.network.config import SD15, SD21, SDXL, NetworkConfig

TINY = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(1, 1),
    context_dim=16,
)
SMALL = {
    "SD1.5": replace(SD15, model_channels=32, context_dim=24),
    "SD2.x": replace(SD21, model_channels=32, context_dim=40, head_channels=32),
    "SDXL": replace(
        SDXL,
        model_channels=32,
        context_dim=48,
        head_channels=32,
        adm_in_channels=96,
        transformer_depth=(0, 0, 2, 2, 3, 3),
        transformer_depth_middle=3,
    ),
    "custom": TINY,
}
