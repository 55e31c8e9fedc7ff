"""What can be run here, each in an environment of its own: `nox -s demo`, `tests`, `host`, ...

torch is pinned in this file only. ComfyUI brings its own, so it is no dependency of the pack.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
TIMM = "timm==1.0.31"  # what its depth network is built of
# What several processes of a training need, as pyproject.toml names it.
TRAIN = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["train"]
PYTEST = ("pytest>=8.4", "pytest-timeout>=2.3")
TIMEOUT = "--timeout=900"  # seconds for one test: a hang fails and says where

NAMED_PYTHON = os.environ.get("COMFYUI_PYTHON")
HOSTED = "control"  # the measurement in bench/ that runs inside ComfyUI
# The one whose reference for depth needs torchvision, which ComfyUI's Python has.
BETTER_HOSTED = "annotators"

nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]


def install(session: nox.Session, *packages: str) -> None:
    """Install torch first, and name it again beside the rest so that nothing replaces it."""
    session.install(TORCH)
    session.install(TORCH, OPENCV, *HOST_BRINGS, *packages)


def install_tests(session: nox.Session) -> None:
    """Install what the tests need that run without ComfyUI."""
    install(session, *ORACLES, *TRAIN, *PYTEST, "hypothesis>=6.100")
    session.install("--no-deps", REFERENCE_ANNOTATORS)


@nox.session
def demo(session: nox.Session) -> None:
    """The whole cycle on the built-in demo model; `-- train` trains that model anew."""
    install(session)
    session.run("python", "cli.py", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that needs no ComfyUI; arguments after `--` go to pytest (`-- -m slow`)."""
    install_tests(session)
    session.run("python", "-m", "pytest", TIMEOUT, *session.posargs)
    session.log("Tests marked `slow` ran only if asked for: nox -s tests -- -m slow")
    session.log("The tests inside a real ComfyUI are a session of their own: nox -s host")


@nox.session
def host(session: nox.Session) -> None:
    """tests/host inside every ComfyUI at hand, under ComfyUI's own Python."""
    comfy_host, main, python = find_comfy(session)
    if main is None:
        session.skip(f"SKIPPED, nothing was tested: {comfy_host.why_not()}")

    runs = []
    for number, path in enumerate([main, *comfy_host.other_hosts(main)]):
        own = None if number == 0 or NAMED_PYTHON else comfy_host.host_python(path)
        interpreter = own or python
        title = f"ComfyUI {comfy_host.host_version(path)} in {path}"
        session.log(f"{title}, Python {interpreter}")
        extras = install_beside(session, interpreter)
        env = {"COMFYUI_PATH": str(path), "PYTHONPATH": str(extras)}
        command = (str(interpreter), "-m", "pytest", TIMEOUT, "tests/host", *session.posargs)
        runs.append((title, command, {**os.environ, **env}))

    # The tests use one thread each, so two versions are tested at a time.
    failed = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for (title, *_), done in zip(runs, pool.map(run_apart, runs), strict=True):
            print(f"=== {title}\n{done.stdout}", flush=True)
            if done.returncode:
                failed.append(title)
    if failed:
        session.error("failed: " + "; ".join(failed))


@nox.session
def browser(session: nox.Session) -> None:
    """The templates in a real browser, in both renderers of ComfyUI's page; needs a Chromium."""
    comfy_host, main, python = find_comfy(session)
    if main is None:
        session.skip(f"SKIPPED, nothing was tested: {comfy_host.why_not()}")
    session.install(*PYTEST, "playwright>=1.50")
    extras = install_beside(session, python)
    env = {"COMFYUI_PATH": str(main), "COMFYUI_PYTHON": str(python), "COMFYUI_EXTRAS": str(extras)}
    session.run("python", "-m", "pytest", TIMEOUT, "tests/browser", *session.posargs, env=env)


@nox.session
def texts(session: nox.Session) -> None:
    """Write what repeats the words of the nodes, from their schemas; list what Chinese lacks.

    Without a ComfyUI only what follows from locales/en. `-- --still-right NAME ...` says that the
    Chinese of a text needs no change.
    """
    _, main, python = find_comfy(session)
    command = ("cli.py", "texts", *session.posargs)
    if main is None:
        install(session)
        session.run("python", *command)
    else:
        env = {"COMFYUI_PATH": str(main)}
        session.run(str(python), *command, env=env, external=True)


def run_apart(run: tuple[str, Sequence[str], dict[str, str]]) -> subprocess.CompletedProcess[str]:
    """The finished command, with everything it said in its standard output."""
    _, command, env = run
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        text=True,
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


@nox.session
def mutants(session: nox.Session) -> None:
    """Faults planted in packages, and how many of them the tests catch; `-- evaluate --seed 2`.

    A sample of each package, or of those named; an hour on one core. The scores of the usual sample
    go to bench/results/mutants.json.
    """
    install_tests(session)
    session.install("cosmic-ray==8.7.0")
    usual = not any(word.startswith("-") for word in session.posargs)
    results = ("--results", str(ROOT / "bench" / "results" / "mutants.json")) if usual else ()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "pack"  # the faults are written into the source
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "out"))
        session.chdir(copy)
        session.run("python", "-m", "tools.mutants_run", *session.posargs, *results)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff and pyright."""
    install(session, "ruff==0.17.5", "pyright[nodejs]==1.1.414")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("pyright")


@nox.session
def bench(session: nox.Session) -> None:
    """The measurements in bench/, all or the named ones; `-- control --only neutral_512`.

    `control` measures inside ComfyUI, under ComfyUI's own Python; it is left out without one.
    `annotators` takes ComfyUI's Python too, for depth; without one it leaves out depth alone.
    """
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), session.posargs))
    options = session.posargs[len(names) :]
    every = [file.stem for file in sorted((ROOT / "bench").glob("[!_]*.py"))]
    names = names or every
    if options and len(names) != 1:
        session.error(f"{options[0]} needs one measurement in front of it: {', '.join(every)}")
    inside, python, env = [], Path(), {}
    if HOSTED in names or BETTER_HOSTED in names:
        comfy_host, main, python = find_comfy(session)
        if main is not None:
            session.log(f"ComfyUI {comfy_host.host_version(main)} in {main}, Python {python}")
            inside = [name for name in names if name in (HOSTED, BETTER_HOSTED)]
            env = {"COMFYUI_PATH": str(main), "PYTHONPATH": str(install_beside(session, python))}
        elif HOSTED in names:
            session.warn(f"SKIPPED bench {HOSTED}, nothing was measured: {comfy_host.why_not()}")
    outside = [name for name in names if name != HOSTED and name not in inside]
    failed = []
    if outside:
        install(session, *ORACLES)
        session.install("--no-deps", REFERENCE_ANNOTATORS)
        try:
            session.run("python", "cli.py", "bench", *outside, *options)
        except CommandFailed:
            failed.append(", ".join(outside))
    for name in inside:
        command = (str(python), "cli.py", "bench", name, *options)
        try:
            session.run(*command, env=env, external=True)
        except CommandFailed:
            failed.append(name)
    if failed:
        session.error(f"failed, or beyond a target: {'; '.join(failed)}")


def find_comfy(session: nox.Session) -> tuple[ModuleType, Path | None, Path]:
    """tests/comfy_host.py, the ComfyUI that it finds, and its Python; an error if that is missing.

    COMFYUI_PATH and COMFYUI_PYTHON name them where they can't be found.
    """
    comfy_host = load(ROOT / "tests" / "comfy_host.py")
    try:
        main = comfy_host.find_host()
    except ValueError as error:
        session.error(str(error))
    if main is None:
        return comfy_host, None, Path()
    python = Path(NAMED_PYTHON).expanduser() if NAMED_PYTHON else comfy_host.host_python(main)
    if python is None or not python.is_file():
        session.error(
            f"found ComfyUI at {main}, but not its Python "
            f"({NAMED_PYTHON or '.venv, venv, python_embeded'}): set COMFYUI_PYTHON to it"
        )
    return comfy_host, main, python


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
    packages += [REFERENCE_ANNOTATORS, TIMM]  # as they are: torch and the rest are the host's
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
