"""What the training nodes are given: the demo model, and a few of its scenes."""

from __future__ import annotations

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
