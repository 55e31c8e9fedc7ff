"""What can be run here, each in an environment of its own: `nox -s demo`, `tests`, `host`, ...

torch is pinned in this file only. ComfyUI brings its own, so it is no dependency of the pack.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import zlib
from pathlib import Path
from types import ModuleType

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).resolve().parent

TORCH = "torch==2.13.0"
# cv2 without a window system: the plain wheel needs libGL.so.1, which a bare Linux does not have.
OPENCV = "opencv-python-headless>=4.7"
# What ComfyUI has brought along already.
HOST_BRINGS = ("einops", "numpy", "safetensors", "Pillow")
# Independent implementations that the tests compare with.
ORACLES = (
    "diffusers>=0.36",
    "transformers>=4.57",
    "kornia>=0.8",
    "torchmetrics>=1.8",
    "scikit-image>=0.25",
    "scikit-learn>=1.5",
    "scipy>=1.14",
)
# The reference annotators. Their dependencies would replace torch; what the tests use of the
# package needs no more than is there already.
REFERENCE_ANNOTATORS = "controlnet_aux==0.0.10"
PYTEST = ("pytest>=8.4", "pytest-timeout>=2.3")
TIMEOUT = "--timeout=900"  # seconds for one test: a hang fails and says where

nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]


def install(session: nox.Session, *packages: str) -> None:
    """Install torch first, and name it again beside the rest so that nothing replaces it."""
    session.install(TORCH)
    session.install(TORCH, OPENCV, *HOST_BRINGS, *packages)


@nox.session
def demo(session: nox.Session) -> None:
    """The whole cycle on the built-in demo model; `-- train` trains that model anew."""
    install(session)
    session.run("python", "cli.py", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that needs no ComfyUI; arguments after `--` go to pytest (`-- -m slow`)."""
    install(session, *ORACLES, *PYTEST, "hypothesis>=6.100")
    session.install("--no-deps", REFERENCE_ANNOTATORS)
    session.run("python", "-m", "pytest", TIMEOUT, *session.posargs)
    session.log("Tests marked `slow` ran only if asked for: nox -s tests -- -m slow")
    session.log("The tests inside a real ComfyUI are a session of their own: nox -s host")


@nox.session
def host(session: nox.Session) -> None:
    """tests/host inside every ComfyUI at hand, under ComfyUI's own Python."""
    comfy_host = load(ROOT / "tests" / "comfy_host.py")
    try:
        main = comfy_host.find_host()
    except ValueError as error:
        session.error(str(error))
    if main is None:
        session.skip(f"SKIPPED, nothing was tested: {comfy_host.why_not()}")
    named = os.environ.get("COMFYUI_PYTHON")
    python = Path(named).expanduser() if named else comfy_host.host_python(main)
    if python is None or not python.is_file():
        session.error(
            f"found ComfyUI at {main}, but not its Python "
            f"({named or '.venv, venv, python_embeded'}): set COMFYUI_PYTHON to it"
        )

    failed = []
    for number, path in enumerate([main, *comfy_host.other_hosts(main)]):
        own = None if named or number == 0 else comfy_host.host_python(path)
        interpreter = own or python
        title = f"ComfyUI {comfy_host.host_version(path)} in {path}"
        session.log(f"{title}, Python {interpreter}")
        extras = install_beside(session, interpreter)
        env = {"COMFYUI_PATH": str(path), "PYTHONPATH": str(extras)}
        try:
            session.run(
                *(str(interpreter), "-m", "pytest", TIMEOUT, "tests/host", *session.posargs),
                env=env,
                external=True,
            )
        except CommandFailed:
            failed.append(title)
    if failed:
        session.error("failed: " + "; ".join(failed))


@nox.session
def lint(session: nox.Session) -> None:
    """ruff and pyright."""
    install(session, "ruff==0.17.5", "pyright[nodejs]==1.1.414")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("pyright")


@nox.session
def bench(session: nox.Session) -> None:
    """The measurements in bench/, all or the named ones; `-- network` runs bench/network.py."""
    install(session, *ORACLES)
    session.install("--no-deps", REFERENCE_ANNOTATORS)
    session.run("python", "cli.py", "bench", *session.posargs)


def install_beside(session: nox.Session, python: Path) -> Path:
    """A folder with what the tests need and `python` lacks; its own environment stays as it is.

    Everything that `python` has is held at its version while pip looks for the rest. So the folder
    only adds packages, and never hides one of ComfyUI's behind another version.
    """
    pip = ("python", "-m", "pip", "--python", str(python))
    folder = Path(session.virtualenv.location).resolve() / "beside"
    folder.mkdir(exist_ok=True)
    wanted = list(PYTEST)
    if not has_module(session, python, "cv2"):
        wanted.append(OPENCV)

    held = folder / "held.txt"
    held.write_text(run_silently(session, *pip, "list", "--format=freeze"), encoding="utf-8")
    plan = folder / "plan.json"
    run_silently(
        session,
        *(*pip, "install", "--dry-run", "--quiet", "--constraint", str(held)),
        *("--report", str(plan), *wanted),
    )
    found = [item["metadata"] for item in json.loads(plan.read_text(encoding="utf-8"))["install"]]
    packages = sorted(f"{item['name']}=={item['version']}" for item in found)
    target = folder / f"{zlib.crc32(' '.join(packages).encode()):08x}"
    if packages and not target.is_dir():
        session.log(f"{python} lacks {', '.join(packages)}: installing beside it, into {target}")
        run_silently(session, *pip, "install", "--no-deps", "--target", str(target), *packages)
    return target


def has_module(session: nox.Session, python: Path, name: str) -> bool:
    """True if `python` finds the module; cv2 comes from several packages, so pip can't tell."""
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}) is not None)"
    return run_silently(session, str(python), "-c", code).strip() == "True"


def run_silently(session: nox.Session, *command: str) -> str:
    """Standard output of the command; its errors appear only if it fails."""
    return str(session.run(*command, silent=True, stderr=subprocess.PIPE, external=True, log=False))


def load(file: Path) -> ModuleType:
    """The module in `file`, without an import path to it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"can't read {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
