"""What the training nodes are given: the demo model, and a few of its scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controlnet_pp.tests.host.harness import Host

DATA = {
    "source": "demo world",
    "folder": "",
    "conditions_folder": "",
    "captions": "",
    "kind": "seg",
    "tolerance": 0,
    "resolution": 128,
    "pictures": 6,
    "held_out": 2,
    "drop_text": 0.5,
    "mirror": False,
    "vary_thresholds": False,
    "skip_bad": False,
    "cache_on_disk": False,
}
LISTS = ("clip", "vae", "images", "conditions", "latents", "conditioning", "annotator", *DATA)


def data_of(host: Host, parts: tuple, **changes: Any) -> Any:
    """CONTROLNET_TRAINING_DATA of the node, which gets lists of whatever is not one."""
    given = {"clip": parts[1], "vae": parts[2], "annotator": parts[6]} | DATA | changes
    inputs = {
        name: value if isinstance(value, list) else [value]
        for name, value in given.items()
        if value is not None
    }
    return host.call("CNPP_ControlNetTrainingData", **inputs)[0]


def begun(host: Host, *, hint_channels: int = 3, seed: int = 0, **source: Any) -> Any:
    """CONTROL_NET of Initialise ControlNet."""
    return host.call("CNPP_InitialiseControlNet", hint_channels=hint_channels, seed=seed, **source)[
        0
    ]


OPTIONS = {
    "steps": 4,
    "batch_size": 2,
    "learning_rate": 1e-4,
    "accumulate": 1,
    "mode": "SD locked",
    "middle_first": 0,
    "precision": "auto",
    "optimizer": "adamw",
    "schedule": "constant",
    "timestep_weights": "none",
    "noise_offset": 0.0,
    "gradient_checkpointing": False,
    "seed": 5,
    "validate_every": 2,
    "sampling_steps": 2,
    "cfg": 3.0,
    "checkpoint_every": 100,
    "unfinished": "go on",
    "keep_checkpoints": False,
}
REWARD = {"recipe": "published", "reward_weight": 1.0, "most_t": 200, "trajectory_steps": 4}


@dataclass
class Trained:
    """What a training node gave out."""

    control: Any
    model: Any
    validation: Any
    plot: Any
    loss_map: dict[str, list[float]]
    score: float
    plan: str
    report: str

    @property
    def weights(self) -> dict[str, Any]:
        return dict(self.control.control_model.named_parameters())


def trained(host: Host, given: dict[str, Any], name: str, **changes: Any) -> Trained:
    """Train ControlNet on these inputs: model, control_net, data."""
    return Trained(*host.call("CNPP_TrainControlNet", **given | OPTIONS | {"name": name} | changes))


def tuned(host: Host, given: dict[str, Any], name: str, **changes: Any) -> Trained:
    """Reward Fine-Tune on them."""
    inputs = given | OPTIONS | REWARD | {"name": f"reward {name}"} | changes
    return Trained(*host.call("CNPP_RewardFineTune", **inputs))
