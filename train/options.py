"""Every setting of a training on the command line: what it is called, and what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from ..cnpp_core.checkpoint.formats import DIFFUSERS, ORIGINAL
from ..cnpp_core.condition import Condition
from ..cnpp_core.training.modes import Mode
from ..cnpp_core.training.recipes import RECIPES, TIMESTEP_WEIGHTS
from ..cnpp_core.training.settings import OPTIMIZERS, SCHEDULES

OTHER = "other"  # a condition that is none of the known kinds
PRECISIONS = ("fp32", "fp16", "bf16")
STORED = ("fp32", "fp16")
# Sections whose settings decide what is learnt; the steps themselves are the trainer's to compare.
CONTENT = ("model", "data", "loss", "reward")


@dataclass(frozen=True)
class Setting:
    """What there is to know of a setting; command: the only one that has it, "" for both."""

    section: str
    help: str
    choices: tuple[str, ...] = ()
    command: str = ""


@dataclass(frozen=True)
class Options:
    """The settings of `train` and `reward`, by the names that they have in a TOML file.

    As a flag each has `--` before it and hyphens for its underscores.
    """

    model: Annotated[
        str, Setting("model", "the model to train for: `demo`, or a folder in diffusers' layout")
    ] = "demo"
    unet: Annotated[
        Path | None,
        Setting("model", "a checkpoint file whose UNet takes the place of the folder's"),
    ] = None
    begin: Annotated[
        Path | None,
        Setting(
            "model", "the ControlNet file to begin from; without one, train copies the encoder"
        ),
    ] = None
    data: Annotated[
        str,
        Setting(
            "data",
            "a folder with prompt.json (fill50k), a folder of pictures with .txt captions, or tar "
            'shards such as "train-{000..099}.tar"',
        ),
    ] = ""
    conditions: Annotated[
        Path | None, Setting("data", "a folder of conditions with the names of the pictures")
    ] = None
    condition: Annotated[
        str,
        Setting(
            "data",
            "the kind of condition; it finds those that are not in files, and judges",
            choices=(*(kind.key for kind in Condition), OTHER),
        ),
    ] = Condition.CANNY.key
    method: Annotated[
        str, Setting("data", "how the condition is found, where there is a choice")
    ] = ""
    thresholds: Annotated[
        tuple[float, ...],
        Setting(
            "data",
            "of canny: low and high, or of OpenCV's the ends of the ranges of both",
        ),
    ] = ()
    resolution: Annotated[int, Setting("data", "side of the square whose area pictures have")] = 512
    batch: Annotated[int, Setting("data", "pictures in a batch")] = 4
    drop_text: Annotated[float, Setting("data", "part of the captions that are left out")] = 0.5
    mirror: Annotated[bool, Setting("data", "mirror half of the pictures and their conditions")] = (
        False
    )
    held_out: Annotated[
        int, Setting("data", "pictures that are not trained with but validated on")
    ] = 4
    skip_bad: Annotated[
        bool, Setting("data", "leave out what can't be used instead of stopping")
    ] = False
    timestep_weights: Annotated[
        str,
        Setting("loss", "how much the error counts by timestep", choices=tuple(TIMESTEP_WEIGHTS)),
    ] = "none"
    noise_offset: Annotated[
        float, Setting("loss", "deviation of a constant added to the noise")
    ] = 0.0
    recipe: Annotated[
        str, Setting("reward", "how it is rewarded", choices=tuple(RECIPES), command="reward")
    ] = "published"
    reward_weight: Annotated[
        float | None,
        Setting(
            "reward",
            "lambda of the reward; without one as published for the kind",
            command="reward",
        ),
    ] = None
    most_t: Annotated[
        int, Setting("reward", "published: the last timestep with a reward", command="reward")
    ] = 200
    trajectory_steps: Annotated[
        int, Setting("reward", "on trajectories: sampling steps of each", command="reward")
    ] = 10
    trajectory_cfg: Annotated[
        float, Setting("reward", "on trajectories: cfg of each", command="reward")
    ] = 3.0
    pool: Annotated[
        int, Setting("reward", "on trajectories: how many are kept", command="reward")
    ] = 8
    refresh: Annotated[
        int,
        Setting("reward", "on trajectories: batches until one is sampled anew", command="reward"),
    ] = 10
    decoder: Annotated[
        Path | None,
        Setting("reward", "a tiny decoder (TAESD) in place of the autoencoder's", command="reward"),
    ] = None
    steps: Annotated[int, Setting("training", "steps of the optimiser")] = 10_000
    learning_rate: Annotated[float, Setting("training", "its highest rate")] = 1e-5
    schedule: Annotated[str, Setting("training", "how the rate goes on", choices=SCHEDULES)] = (
        "constant"
    )
    warmup: Annotated[int, Setting("training", "steps until the rate is reached")] = 100
    weight_decay: Annotated[float, Setting("training", "of AdamW")] = 1e-2
    optimizer: Annotated[
        str, Setting("training", "adamw8bit needs bitsandbytes", choices=OPTIMIZERS)
    ] = "adamw"
    max_grad_norm: Annotated[float, Setting("training", "where gradients are clipped")] = 1.0
    accumulate: Annotated[int, Setting("training", "batches in a step")] = 1
    ema_decay: Annotated[float, Setting("training", "of the averaged weights, which are kept")] = (
        0.999
    )
    precision: Annotated[str, Setting("training", "what is computed in", choices=PRECISIONS)] = (
        "fp32"
    )
    recompute: Annotated[
        bool,
        Setting("training", "gradient checkpointing: less memory, more time, the same numbers"),
    ] = False
    mode: Annotated[
        str, Setting("training", "what is trained", choices=tuple(mode.value for mode in Mode))
    ] = Mode.SD_LOCKED.value
    middle_steps: Annotated[
        int, Setting("training", "first so many steps with the middle block only")
    ] = 0
    seed: Annotated[int, Setting("training", "of everything that is random")] = 0
    validate_every: Annotated[int, Setting("validation", "steps between two validations")] = 500
    validation_steps: Annotated[int, Setting("validation", "sampling steps (DDIM)")] = 20
    validation_cfg: Annotated[float, Setting("validation", "classifier-free guidance")] = 5.0
    tolerance: Annotated[
        int, Setting("validation", "pixels by which lines and joints may be off")
    ] = 1
    score: Annotated[bool, Setting("validation", "find the condition again in what was drawn")] = (
        True
    )
    out: Annotated[
        Path | None, Setting("files", "folder for all that is written; out/<command>")
    ] = None
    checkpoint_every: Annotated[int, Setting("files", "steps between two checkpoints")] = 500
    keep: Annotated[int, Setting("files", "checkpoints that stay")] = 2
    layout: Annotated[
        str, Setting("files", "names in the final file", choices=(ORIGINAL, DIFFUSERS))
    ] = ORIGINAL
    stored: Annotated[str, Setting("files", "numbers in the final file", choices=STORED)] = "fp16"
    cache: Annotated[Path | None, Setting("files", "folder that keeps latents and embeddings")] = (
        None
    )
    encode_first: Annotated[
        bool, Setting("files", "encode all pictures and captions, then free the text encoders")
    ] = False
    annotators: Annotated[Path | None, Setting("files", "folder of the annotators' weights")] = None
    download: Annotated[bool, Setting("files", "fetch annotators' weights that are missing")] = (
        False
    )
    device: Annotated[str, Setting("files", "cpu, cuda:1, ...; else a GPU if there is one")] = ""
    resume: Annotated[bool, Setting("files", "go on from the newest checkpoint")] = False
    accept_changes: Annotated[bool, Setting("files", "go on although settings were other ones")] = (
        False
    )
    plan: Annotated[bool, Setting("files", "say what it would take, and stop")] = False

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            found, choices = getattr(self, name), setting.choices
            if choices and found not in choices:
                raise ValueError(
                    f"The setting {name} is '{found}', expected one of {', '.join(choices)}."
                )
        for name in ("held_out", "middle_steps", "tolerance"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"The setting {name} is {getattr(self, name)}, expected at least 0."
                )
        if self.validate_every < 1:
            raise ValueError(
                f"The setting validate_every is {self.validate_every}, expected at least 1."
            )

    def content(self, command: str) -> dict[str, Any]:
        """What decides what is learnt, as JSON can hold it: a resumed training has the same."""
        return {
            name: _plain(getattr(self, name))
            for name, setting in settings_of(command).items()
            if setting.section in CONTENT
        }

    def public(self, command: str) -> dict[str, Any]:
        """All settings as a file may tell them to others: of places only the last name."""
        chosen = {name: getattr(self, name) for name in settings_of(command)}
        places = {name: value.name for name, value in chosen.items() if isinstance(value, Path)}
        named = {name: Path(chosen[name]).name for name in ("model", "data")}
        return {name: _plain(value) for name, value in {**chosen, **places, **named}.items()}


# In their order: by its name, what there is to know of each setting.
SETTINGS: Mapping[str, Setting] = {
    name: kind.__metadata__[0]
    for name, kind in get_type_hints(Options, include_extras=True).items()
}


def settings_of(command: str) -> dict[str, Setting]:
    """The settings that a command has."""
    return {name: one for name, one in SETTINGS.items() if one.command in ("", command)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
