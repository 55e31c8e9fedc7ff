"""The demo model in the host's own types."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....annotators.kinds import Classes, Ways
from ....cnpp_core.condition import Condition
from ....cnpp_core.network.unet import UNet
from ....demo.conditions import CONDITIONS
from ....demo.model import PLAIN, PLUSPLUS, load_demo, load_segmenter
from ....demo.segmenter import CLASSES, PALETTE
from ....demo.text import tokenize
from ....demo.world import HELD_OUT_SEED, load_batch
from ..annotate.annotator import NodeAnnotator
from ..annotate.networks import once
from .loading import build_control
from .models import build_clip, build_model, build_vae

TRAININGS = (PLAIN, PLUSPLUS)


def load_demo_parts(
    condition: str = CONDITIONS[0], training: str = PLAIN
) -> tuple[Any, Any, Any, Any]:
    """MODEL, CLIP, VAE and CONTROL_NET of the demo model, all in float32.

    condition: one of CONDITIONS, which the ControlNet reads. training: one of TRAININGS.
    """
    demo = load_demo(condition=condition, training=training)
    network = demo.controlnet
    return (
        _model_of(demo.unet),
        build_clip(tokenize, demo.text_encoder),
        build_vae(demo.autoencoder),
        build_control(
            network.config,
            network.state_dict(),
            dtype=torch.float32,
            kinds=(Condition.named(condition),),
        ),
    )


def demo_model(*, disable_dynamic: bool = False) -> Any:
    """MODEL of the demo UNet, with weights of its own.

    The host asks for it again wherever it must not share them: in training, under hooks, on
    another GPU. disable_dynamic: all weights in place at once.
    """
    return _model_of(load_demo().unet, disable_dynamic)


def _model_of(unet: UNet, disable_dynamic: bool = False) -> Any:
    model = build_model(unet.config, unet.state_dict(), disable_dynamic=disable_dynamic)
    model.cached_patcher_init = (demo_model, ())
    return model


def example_picture(index: int) -> tuple[Tensor, str]:
    """IMAGE (1, 128, 128, 3) and caption of a picture that no training has seen."""
    batch = load_batch(HELD_OUT_SEED, [index])
    return batch.images.movedim(1, -1).contiguous(), batch.captions[0]


def demo_annotator() -> NodeAnnotator:
    """What finds the shapes in pictures of the demo model."""
    patcher = once("demo segmenter", lambda dtype, device: load_segmenter().to(device, dtype))
    network = patcher.model
    classes = Classes(PALETTE, CLASSES, "the demo model")
    ways = Ways(network.annotate, network.logits, classes=classes)
    return NodeAnnotator("seg", ways, (patcher,))
