"""Weights averaged over the course of a training: calmer than those of its last step."""

from __future__ import annotations

import copy

import torch
from torch import nn


def averaged_copy(module: nn.Module) -> nn.Module:
    """A copy that holds the average; it learns nothing by itself."""
    return copy.deepcopy(module).eval().requires_grad_(False)


@torch.no_grad()
def average_in(averaged: nn.Module, module: nn.Module, step: int, decay: float) -> None:
    """Move the average towards the weights of step 0, 1, ...; what is counted is taken over.

    Early weights are far from any good, so the average forgets them fast: by
    min(decay, (1 + step) / (10 + step)).
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    ours = averaged.state_dict().values()
    for average, current in zip(ours, module.state_dict().values(), strict=True):
        if average.is_floating_point():
            average.lerp_(current.to(average.dtype), share)
        else:
            average.copy_(current)
