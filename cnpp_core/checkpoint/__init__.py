"""Reading, converting and reporting ControlNet files."""

from .keys import from_diffusers, to_diffusers
from .load import LoadedControl, load_controlnet_file
from .read import read_tensors
from .report import BlockCost, NetworkReport, report, report_module
from .shapes import read_config

__all__ = [
    "BlockCost",
    "LoadedControl",
    "NetworkReport",
    "from_diffusers",
    "load_controlnet_file",
    "read_config",
    "read_tensors",
    "report",
    "report_module",
    "to_diffusers",
]
