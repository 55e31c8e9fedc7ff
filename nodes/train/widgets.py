"""Inputs and outputs that both training nodes have."""

from __future__ import annotations

from comfy_api.latest import io

from ...cnpp_core.training.modes import Mode
from ...cnpp_core.training.recipes import TIMESTEP_WEIGHTS
from ...cnpp_core.training.settings import OPTIMIZERS, SCHEDULES
from ..host.train.options import AUTO, LEAST_STEPS, PRECISIONS, UNFINISHED
from .inputs import LossMapType, TrainingDataType


def sockets() -> list[io.Input]:
    """What is trained, for which model, on what."""
    return [
        io.Model.Input(
            "model",
            tooltip="The model that the ControlNet is for (SD1.5, SD2.x, SDXL), LoRAs included. It "
            "stays as it is; a copy of its UNet takes part.",
        ),
        io.ControlNet.Input(
            "control_net", tooltip="The ControlNet to train, from Initialise ControlNet."
        ),
        TrainingDataType.Input("data", tooltip="From ControlNet Training Data."),
    ]


def widgets(steps: int, learning_rate: float, name: str) -> list[io.Input]:
    """Settings of a training, in the order of `Options`, with the defaults that nodes differ in."""
    return [
        io.Int.Input(
            "steps",
            default=steps,
            min=1,
            max=10_000_000,
            tooltip=f"Steps of the optimiser, at least {LEAST_STEPS}. A new condition takes "
            "thousands on SD1.5; the picture on the node shows when it is learnt.",
        ),
        io.Int.Input(
            "batch_size",
            default=4,
            min=1,
            max=256,
            tooltip="Pictures at a time. More are calmer and take more memory.",
        ),
        io.Float.Input(
            "learning_rate",
            default=learning_rate,
            min=1e-8,
            max=1.0,
            step=1e-6,
            round=1e-8,
            tooltip="How far each step goes. 1e-5 as published.",
        ),
        io.Int.Input(
            "accumulate",
            default=1,
            min=1,
            max=256,
            tooltip="Batches in one step: as a larger batch, without its memory.",
        ),
        io.Combo.Input(
            "mode",
            options=[mode.value for mode in Mode if mode is not Mode.MIDDLE_ONLY]
            + [Mode.MIDDLE_ONLY.value],
            default=Mode.SD_LOCKED.value,
            tooltip="What learns. SD locked: the ControlNet. SD decoder unlocked: the model's "
            "decoder too, which comes out as model. middle only: the deepest connection alone.",
        ),
        io.Int.Input(
            "middle_first",
            default=0,
            min=0,
            max=10_000_000,
            tooltip="Train in the mode middle only up to this step, then as mode says. 0: not.",
        ),
        io.Combo.Input(
            "precision",
            options=[AUTO, *PRECISIONS],
            default=AUTO,
            tooltip="What is computed in; the weights that learn are float32. auto: bf16 or fp16 "
            "on GPUs that can.",
        ),
        io.Combo.Input(
            "optimizer",
            options=list(OPTIMIZERS),
            default=OPTIMIZERS[0],
            tooltip="adamw8bit takes a quarter of the memory and the package bitsandbytes.",
        ),
        io.Combo.Input(
            "schedule",
            options=list(SCHEDULES),
            default=SCHEDULES[0],
            tooltip="cosine: the learning rate falls to zero over the steps. constant: it stays.",
        ),
        io.Combo.Input(
            "timestep_weights",
            options=list(TIMESTEP_WEIGHTS),
            default=next(iter(TIMESTEP_WEIGHTS)),
            tooltip="How much the error counts at each noise level. none: equally, as published. "
            "min snr: gentle noise less. layout: strong noise more, where the layout is decided.",
        ),
        io.Float.Input(
            "noise_offset",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="A constant in the noise, for models that were trained so. 0 as published.",
        ),
        io.Boolean.Input(
            "gradient_checkpointing",
            default=False,
            tooltip="Less memory, a third more time; the result is the same.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**62,
            tooltip="Decides batches, noise and the pictures that are drawn in between.",
        ),
        io.Int.Input(
            "validate_every",
            default=100,
            min=1,
            max=10_000_000,
            tooltip="Draw and score the held-out pictures every so many steps.",
        ),
        io.Int.Input(
            "sampling_steps",
            default=20,
            min=1,
            max=1000,
            tooltip="Sampling steps (DDIM) of pictures that are drawn in between.",
        ),
        io.Float.Input(
            "cfg",
            default=7.0,
            min=1.0,
            max=100.0,
            step=0.1,
            tooltip="How closely the prompt is followed in them, as in KSampler.",
        ),
        io.String.Input(
            "name",
            default=name,
            tooltip="Folder for checkpoints, in output/controlnet_training. A training that was "
            "cancelled goes on from there.",
        ),
        io.Int.Input(
            "checkpoint_every",
            default=250,
            min=1,
            max=10_000_000,
            tooltip="Write a checkpoint every so many steps; the newest two stay. After Cancel one "
            "is always written.",
        ),
        io.Combo.Input(
            "unfinished",
            options=list(UNFINISHED),
            default=UNFINISHED[0],
            tooltip="If there are checkpoints of this name: go on exactly where they end; go on "
            "although data or settings have changed; or delete them and start over.",
        ),
        io.Boolean.Input(
            "keep_checkpoints",
            default=False,
            tooltip="Keep the checkpoints when the training is done. Off: they are deleted then.",
        ),
    ]


def outputs() -> list[io.Output]:
    """What comes of it."""
    return [
        io.ControlNet.Output(
            "trained",
            display_name="control_net",
            tooltip="The trained ControlNet (averaged weights), for Apply ControlNet++ and Save "
            "ControlNet.",
        ),
        io.Model.Output(
            "unlocked",
            display_name="model",
            tooltip="The model as it came, or with the decoder that was trained along (mode SD "
            "decoder unlocked).",
        ),
        io.Image.Output(
            "validation",
            tooltip="Held-out conditions, and the pictures drawn from them before and after.",
        ),
        io.Image.Output("plot", tooltip="Loss and score over the steps."),
        LossMapType.Output("loss_map", tooltip="The losses, for Plot Loss Graph."),
        io.Float.Output(
            "score", tooltip="The last score of the held-out pictures; NaN if there is none."
        ),
        io.String.Output(
            "plan", tooltip="What the training takes: parameters, memory, disk; said beforehand."
        ),
        io.String.Output("report", tooltip="What came of it, in words."),
    ]
