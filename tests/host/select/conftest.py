"""What a search of the demo model takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controlnet_pp.tests.host.harness import Host


@pytest.fixture(scope="module")
def world(host: Host) -> dict[str, Any]:
    """The inputs that every search of the demo model shares."""
    model, clip, vae, control, example, *_ = host.call("CNPP_DemoModel", example=4)
    edges, finder = host.call(
        "CNPP_Canny", image=example, mode="ControlNet++", low=100, high=200, resolution=0
    )
    positive, negative = (
        host.call("CLIPTextEncode", clip=clip, text=text)[0]
        for text in ("yellow star on a blue ground", "")
    )
    return {
        "model": model,
        "positive": positive,
        "negative": negative,
        "control_net": control,
        "condition": edges,
        "latent_image": {"samples": torch.zeros(1, 4, 16, 16)},
        "vae": vae,
        "annotator": finder,
    }
