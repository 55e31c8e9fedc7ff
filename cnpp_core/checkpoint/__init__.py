"""Reading, converting, reporting and writing ControlNet files."""

from .keys import from_diffusers, to_diffusers
from .load import LoadedControl, load_controlnet_file
from .read import read_tensors
from .report import BlockCost, NetworkReport, report, report_module
from .save import save_controlnet_file, save_unet_file
from .shapes import read_config
from .trained import Training

__all__ = [
    "BlockCost",
    "LoadedControl",
    "NetworkReport",
    "Training",
    "from_diffusers",
    "load_controlnet_file",
    "read_config",
    "read_tensors",
    "report",
    "report_module",
    "save_controlnet_file",
    "save_unet_file",
    "to_diffusers",
]
