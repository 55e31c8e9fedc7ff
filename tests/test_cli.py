"""The command line, as a person meets it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from controlnet_pp.cnpp_core.checkpoint import Training, save_controlnet_file
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.tests.checkpoint.files import TINY

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "cli.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_without_a_command_it_says_what_there_is_and_fails():
    done = run()
    assert done.returncode == 2
    assert done.stdout.startswith("usage: python cli.py")


def test_report_prints_the_published_size_of_the_sd15_controlnet():
    done = run("report", "sd15")
    assert done.returncode == 0, done.stderr
    assert "361,279,120 parameters in 340 tensors" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["report"],
        ["report", "no_such_file.safetensors"],
        ["bench", "sing"],
        ["train", "--learning-rat", "1"],
        ["train", "no_such_file.toml"],
        ["reward"],
        ["captions", "no_such_folder", "--model", "nor_this"],
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments: list[str]):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_where_an_error_comes_from():
    assert "Traceback" in run("--debug", "report", "no_such_file.safetensors").stderr


def test_a_missing_package_is_named_with_the_way_out(tmp_path: Path):
    shutil.copy(ROOT / "cli.py", tmp_path)
    shutil.copy(ROOT / "__init__.py", tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "command.py").write_text("import a_package_that_nobody_has\n")
    done = run("demo", root=tmp_path)
    assert done.returncode == 2
    assert "'a_package_that_nobody_has'" in done.stderr
    assert "nox -s demo" in done.stderr


@pytest.mark.parametrize(
    "name", ["comfyui-controlnet-plus-plus", "ControlNet++ 0.1", "controlnet.v2"]
)
def test_the_folder_may_have_any_name(tmp_path: Path, name: str):
    folder = tmp_path / name
    folder.mkdir()
    for file in ("cli.py", "__init__.py"):
        shutil.copy(ROOT / file, folder)
    shutil.copytree(ROOT / "cnpp_core", folder / "cnpp_core")
    done = run("report", "sdxl", root=folder)
    assert done.returncode == 0, done.stderr
    assert "SDXL" in done.stdout


def test_report_of_a_file_says_how_it_was_trained(tmp_path: Path):
    about = Training("sd15.safetensors", "canny", 1200, "0.1.0", {"seed": 3})
    path = tmp_path / "canny.safetensors"
    save_controlnet_file(path, ControlNet(TINY), about)
    done = run("report", str(path))
    assert done.returncode == 0, done.stderr
    assert "trained for canny from sd15.safetensors: 1,200 steps" in done.stdout
    assert "settings: seed 3" in done.stdout
