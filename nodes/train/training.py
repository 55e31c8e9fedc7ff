"""Menu group "train": the training of a ControlNet, plain and with a reward."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...cnpp_core.training.modes import Mode
from ...cnpp_core.training.recipes import (
    RECIPES,
    TIMESTEP_WEIGHTS,
    RewardSettings,
    published_weight,
)
from ...cnpp_core.training.settings import OPTIMIZERS, SCHEDULES
from ...cnpp_core.training.trajectories import TrajectorySettings
from ..annotate.inputs import AnnotatorType
from ..host.train.options import AUTO, LEAST_STEPS, PRECISIONS, UNFINISHED, Options
from ..host.train.rewarding import finder_with, plain_goal, reward_goal
from ..host.train.training import Goal, NodeTraining, Result
from ..schema import schema, show_text
from .inputs import GROUP, LossMapType, TrainingDataType

TRAIN, REWARD = "Train ControlNet", "Reward Fine-Tune"


def _sockets() -> list[io.Input]:
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


def _widgets(steps: int, learning_rate: float, name: str) -> list[io.Input]:
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


def _outputs() -> list[io.Output]:
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


class TrainControlNet(io.ComfyNode):
    """Train ControlNet: plain training, as the ControlNet paper has it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_TrainControlNet",
            TRAIN,
            GROUP,
            "Trains a ControlNet inside ComfyUI. Shows the held-out pictures and their score as it "
            "goes; after Cancel, queueing it again goes on where it stopped.",
            [*_sockets(), *_widgets(1000, 1e-5, "controlnet")],
            _outputs(),
            aliases=("training", "fine-tune controlnet", "learn a condition"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, control_net, data, **widgets: Any) -> io.NodeOutput:
        options = Options(**widgets)
        return _run(cls, TRAIN, model, control_net, data, options, plain_goal(options.diffusion))


class RewardFineTune(io.ComfyNode):
    """Reward Fine-Tune: ControlNet++, and other ways to train with a reward."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        defaults = TrajectorySettings()
        return schema(
            "CNPP_RewardFineTune",
            REWARD,
            GROUP,
            "Makes a ControlNet into a ControlNet++, by the reward of an annotator. It finds the "
            "condition again in what the model predicts, and the ControlNet learns to make it the "
            "wanted one. For a ControlNet that is trained already.",
            [
                *_sockets(),
                AnnotatorType.Input(
                    "annotator",
                    optional=True,
                    tooltip="The reward: finds the condition again, with gradients. Not connected: "
                    "the annotator of the data.",
                ),
                io.Vae.Input(
                    "decoder",
                    optional=True,
                    tooltip="Decodes what the reward looks at. A tiny one (TAESD, from Load VAE) "
                    "takes a tenth of the memory. Not connected: the VAE of the data.",
                ),
                *_widgets(500, 1e-5, "controlnet_pp"),
                io.Combo.Input(
                    "recipe",
                    options=list(RECIPES),
                    default=next(iter(RECIPES)),
                    tooltip="published: ControlNet++ as in its paper. on trajectories: rewarded on "
                    "states that the sampler itself comes through.",
                ),
                io.Float.Input(
                    "reward_weight",
                    default=1.0,
                    min=0.0,
                    max=1000.0,
                    step=0.05,
                    tooltip="Multiplies the weight that the kind was published with: 0.5 for seg "
                    "and line art, 1 for the others.",
                ),
                io.Int.Input(
                    "most_t",
                    default=RewardSettings().most_t,
                    min=0,
                    max=999,
                    tooltip="published: reward only timesteps up to this, whose noise is gentle.",
                ),
                io.Int.Input(
                    "trajectory_steps",
                    default=defaults.steps,
                    min=1,
                    max=1000,
                    tooltip="on trajectories: sampling steps of a trajectory.",
                ),
            ],
            _outputs(),
            aliases=("controlnet++", "consistency reward", "reward training"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        control_net,
        data,
        recipe: str,
        reward_weight: float,
        most_t: int,
        trajectory_steps: int,
        annotator=None,
        decoder=None,
        **widgets: Any,
    ) -> io.NodeOutput:
        options = Options(**widgets)
        finder = finder_with(REWARD, data, annotator)
        settings = RewardSettings(
            recipe=recipe,
            weight=reward_weight * published_weight(finder.condition),
            most_t=most_t,
            trajectories=TrajectorySettings(steps=trajectory_steps, cfg=options.cfg),
            diffusion=options.diffusion,
        )
        vae = data.vae if decoder is None else decoder
        goal = reward_goal(REWARD, model, vae, finder, settings)
        return _run(cls, REWARD, model, control_net, data, options, goal)


def _run(
    cls: type[io.ComfyNode],
    node: str,
    model: Any,
    control_net: Any,
    data: Any,
    options: Options,
    goal: Goal,
) -> io.NodeOutput:
    def tell(text: str) -> None:
        show_text(cls, text)

    result: Result = NodeTraining(node, model, control_net, data, options, goal, tell).run()
    shown = [ui.PreviewImage(one, cls=cls).as_dict() for one in (result.sheet, result.plot)]
    return io.NodeOutput(
        result.control,
        result.model,
        result.sheet,
        result.plot,
        {"loss": result.losses},
        result.score,
        result.plan,
        result.report,
        ui=shown[0]
        | {"images": [*shown[0]["images"], *shown[1]["images"]]}
        | show_text(cls, result.report),
    )


NODES = [TrainControlNet, RewardFineTune]
