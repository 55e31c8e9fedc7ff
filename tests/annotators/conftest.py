"""Makes the shared helper `aux_oracle` importable under the importlib import mode."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parent / "aux_oracle.py"

if "aux_oracle" not in sys.modules:
    spec = importlib.util.spec_from_file_location("aux_oracle", FILE)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["aux_oracle"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
