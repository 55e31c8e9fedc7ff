"""The reference `controlnet_aux.open_pose`, and what it takes to import it next to our code."""

from __future__ import annotations

import colorsys
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def _find(name: str):
    """Where a package is; None if nowhere, also while an empty module stands in for it."""
    if name in sys.modules and sys.modules[name].__spec__ is None:
        return None
    return importlib.util.find_spec(name)


@pytest.fixture(scope="session")
def open_pose() -> ModuleType:
    """controlnet_aux.open_pose, with empty modules for torchvision where there is none.

    Only its face network needs torchvision, and no test runs that one.
    """
    from controlnet_pp.tests.annotators import aux_oracle

    aux_oracle.aux("util")  # mounts the package without its own __init__
    name = "controlnet_aux.whole_open_pose"
    if name in sys.modules:
        return sys.modules[name]
    (folder,) = sys.modules["controlnet_aux"].__path__
    file = Path(folder) / "open_pose" / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(file.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    with pytest.MonkeyPatch.context() as patch:
        if _find("torchvision") is None:
            transforms = ModuleType("torchvision.transforms")
            transforms.ToTensor = transforms.ToPILImage = object  # type: ignore[attr-defined]
            patch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
            patch.setitem(sys.modules, "torchvision.transforms", transforms)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def matplotlib_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one function of matplotlib that the reference's hands are drawn with.

    colorsys computes the same numbers, bit for bit (measured with matplotlib 3.10).
    """
    if _find("matplotlib") is None:
        stand_in, colours = ModuleType("matplotlib"), ModuleType("matplotlib.colors")
        colours.hsv_to_rgb = lambda hsv: np.array(  # type: ignore[attr-defined]
            colorsys.hsv_to_rgb(*hsv)
        )
        stand_in.colors = colours  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "matplotlib", stand_in)
