"""What the nodes of the menu group "train" have in common."""

from __future__ import annotations

from comfy_api.latest import io

GROUP = "train"
TrainingDataType = io.Custom("CONTROLNET_TRAINING_DATA")
LossMapType = io.Custom("LOSS_MAP")
