"""Menu group "train": the training of a ControlNet, plain and with a reward."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...cnpp_core.training.recipes import RECIPES, RewardSettings, published_weight
from ...cnpp_core.training.trajectories import TrajectorySettings
from ..annotate.inputs import AnnotatorType
from ..host.train.goals import Goal, finder_with, plain_goal, reward_goal
from ..host.train.options import Options
from ..host.train.training import NodeTraining, Result
from ..schema import schema, show_text
from .inputs import GROUP
from .widgets import outputs, sockets, widgets

TRAIN, REWARD = "Train ControlNet", "Reward Fine-Tune"


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
            [*sockets(), *widgets(1000, 1e-5, "controlnet")],
            outputs(),
            aliases=("training", "fine-tune controlnet", "learn a condition"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, control_net, data, **settings: Any) -> io.NodeOutput:
        options = Options(**settings)
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
                *sockets(),
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
                *widgets(500, 1e-5, "controlnet_pp"),
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
            outputs(),
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
        **common: Any,
    ) -> io.NodeOutput:
        options = Options(**common)
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
