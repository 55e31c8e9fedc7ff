"""Some pictures of a batch, and the latents that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker

NODE = "Pick Most Consistent"
Latent = dict[str, Any]  # the host's: {"samples": (B, C, H, W), ...}


def rows_of(latent: Latent, indices: Sequence[int]) -> Latent:
    """These rows of a batch of latents, in this order.

    Noise mask and noise numbers follow, as in the host's Latent From Batch: sampled again, a row
    gets the noise that it had in the whole batch.
    """
    rows, samples = list(indices), latent["samples"]
    numbers = latent.get("batch_index", range(samples.shape[0]))
    out = latent | {"samples": samples[rows], "batch_index": [numbers[i] for i in rows]}
    mask = latent.get("noise_mask")
    if mask is not None and mask.shape[0] > 1:  # the host repeats a mask that is too short
        out["noise_mask"] = mask[[i % mask.shape[0] for i in rows]]
    return out


def require_one_each(latent: Latent | None, pictures: int) -> None:
    """ValueError if there is not one latent for each picture."""
    if latent is None:
        return
    samples = latent["samples"]
    nested = getattr(samples, "is_nested", False)
    if nested or samples.shape[0] != pictures:
        found = "several latents in one" if nested else f"a batch of {samples.shape[0]}"
        raise ValueError(
            f"{NODE}: latent is {found}, and there are {pictures} pictures. Connect the "
            "latent that these pictures were decoded from, or disconnect it."
        )


def no_latent() -> ExecutionBlocker:
    """What the output gives if no latent came in: an error in the node that wants to use it."""
    return ExecutionBlocker(
        f"{NODE}: connect the latent of the pictures to its input latent, or take nothing from its "
        "output latent."
    )
