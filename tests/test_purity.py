"""Everything below the nodes works where there is no ComfyUI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

IMPORT_ALL = """
import importlib, importlib.util, pkgutil, sys
for name in ("comfy", "comfy_api", "nodes", "folder_paths", "server", "execution"):
    sys.modules[name] = None  # an import of it fails
spec = importlib.util.spec_from_file_location(
    "pack", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["pack"] = pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
count = 0
for part in sys.argv[2:]:
    package = importlib.import_module("pack." + part)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(found.name)
        count += 1
print(count)
"""


def test_every_module_below_the_nodes_imports_without_a_host():
    parts = ("cnpp_core", "annotators", "pictures", "dataset", "evaluate", "demo", "train")
    command = [sys.executable, "-c", IMPORT_ALL, str(ROOT), *parts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    files = [f for p in parts for f in (ROOT / p).rglob("*.py") if f.name != "__init__.py"]
    assert int(done.stdout) >= len(files)  # and the sub-packages


def test_loading_the_root_loads_no_torch():
    code = IMPORT_ALL + "assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
