"""Samplings under Consistency Feedback, with an annotator whose finds are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from controlnet_pp.tests.host.harness import TINY, Host, apply
from torch import Tensor

NODE = "CNPP_ConsistencyFeedback"
CANNY = "canny (ControlNet++)"
EDGES = torch.zeros(1, 1, 128, 128)
EDGES[..., ::8] = 1.0
CONDITION = EDGES.expand(-1, 3, -1, -1).movedim(1, -1)


def vae_of_8(host: Host) -> Any:
    """A VAE of 8 pixels for a latent, whatever it makes of random latents."""
    return host.once("vae of 8", lambda: host.call("CNPP_DemoModel", example=3)[2])


def by_content(picture: Tensor) -> float:
    """A share of the edges that depends on the picture alone: the same in every run."""
    return float(picture.double().mean() * 997 % 1)


def finder(host: Host, share: Callable[[Tensor], float] = by_content) -> Any:
    """An ANNOTATOR that finds this share of EDGES in a picture, from the left."""
    column = torch.arange(128)

    def find(pictures):
        return torch.cat([EDGES * (column < 128 * share(picture)) for picture in pictures])

    return host.annotator("canny", find)


def feedback(
    host: Host,
    control: Any = None,
    *,
    model: Any = None,
    share: Callable[[Tensor], float] = by_content,
    **changes: Any,
) -> tuple:
    """(model, control_net, record) of the node."""
    settings = {
        "model": model or host.model(TINY), "control_net": control or host.pair(TINY)[0],
        "vae": vae_of_8(host), "condition": CONDITION, "kind": CANNY, "tolerance": 0, "target": 1.0,
        "gain": 2.0, "memory": 0.0, "min_factor": 0.0, "max_factor": 3.0, "start_percent": 0.0,
        "end_percent": 1.0, "every": 1, "annotator": finder(host, share),
    }  # fmt: skip
    return host.call(NODE, **settings | changes)


def run(
    host: Host,
    model: Any,
    control: Any,
    batch: int = 1,
    conditioning: tuple | None = None,
    **sampling: Any,
) -> Tensor:
    """The latent of a sampling with this control, or with this conditioning."""
    latent = torch.zeros(batch, 4, 16, 16)
    conditioning = conditioning or apply(host, control)
    return host.sample(model, *conditioning, latent=latent, **{"steps": 4} | sampling)
