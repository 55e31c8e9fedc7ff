"""Where is ComfyUI, and can this Python run it? Standard library only: noxfile.py reads it too."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent

# Packages that every supported ComfyUI imports at start and that a plain Python does not have.
HOST_PACKAGES = ("torch", "torchvision", "torchsde", "einops", "transformers", "aiohttp", "yaml")


def find_host() -> Path | None:
    """The ComfyUI folder: COMFYUI_PATH, else the one around this checkout, else ~/comfy/ComfyUI.

    A COMFYUI_PATH without a ComfyUI in it is a ValueError: whoever set it meant something.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().resolve()
        if not is_host(path):
            raise ValueError(f"COMFYUI_PATH is {named!r}, but no ComfyUI is there.")
        return path
    # Both spellings: a checkout that is linked into custom_nodes counts as lying there.
    places = [Path(os.path.abspath(__file__)).parent.parent, PACK]
    candidates = [place.parent.parent for place in places if place.parent.name == "custom_nodes"]
    candidates.append(Path.home() / "comfy" / "ComfyUI")  # the default of comfy-cli
    return next((path for path in candidates if is_host(path)), None)


def is_host(path: Path) -> bool:
    """True if `path` holds the source of a ComfyUI."""
    return (path / "nodes.py").is_file() and (path / "comfy" / "controlnet.py").is_file()


def other_hosts(host: Path) -> list[Path]:
    """Further versions beside `host`, in folders called ComfyUI-<version>."""
    return [p for p in sorted(host.parent.glob("ComfyUI-*")) if p != host and is_host(p)]


def host_python(host: Path) -> Path | None:
    """The Python that belongs to `host`: .venv, venv or python_embeded, in it or beside it."""
    for base in (host, host.parent):
        for relative in (
            ".venv/bin/python",
            ".venv/Scripts/python.exe",
            "venv/bin/python",
            "venv/Scripts/python.exe",
            "python_embeded/python.exe",
        ):
            if (base / relative).is_file():
                return base / relative
    return None


def host_version(host: Path) -> str:
    """The version in comfyui_version.py, or "unknown version"."""
    file = host / "comfyui_version.py"
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("__version__"):
                return line.split("=")[1].strip().strip("\"'")
    return "unknown version"


def why_not(session: str = "host") -> str | None:
    """Why this process can't run ComfyUI, in one sentence; None if it can.

    session: the one of nox that runs ComfyUI's own Python for what is wanted.
    """
    if find_host() is None:
        return (
            "no ComfyUI found: set COMFYUI_PATH to its folder, put this checkout into its "
            "custom_nodes, or install it in ~/comfy/ComfyUI"
        )
    missing = [name for name in HOST_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"{Path(sys.executable).name} lacks ComfyUI's {', '.join(missing)}: "
            f"run `nox -s {session}`"
        )
    return None


def start() -> Path:
    """Make the modules of the ComfyUI found importable, on the CPU; its folder."""
    root = find_host()
    if root is None:
        raise FileNotFoundError(why_not())
    sys.path.insert(0, str(root))
    # The host decides about its device while model_management is imported, so this comes first.
    importlib.import_module("comfy.cli_args").args.cpu = True
    # Up to 0.8.0 the host's `utils` must be found before something brings another `utils`.
    importlib.import_module("utils.install_util")
    return root
