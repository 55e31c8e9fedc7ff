"""What the registry, pip and the reader of the repository rely on."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from controlnet_pp.cnpp_core.checkpoint.trained import VERSION

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest on 3.10

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
PINS = json.loads((ROOT / "tests" / "node_pins.json").read_text(encoding="utf-8"))
NAMES = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    """The files of the repository; skips where it is not a git checkout (a zip download)."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, or no git")
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def test_requirements_equal_the_dependencies():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n")
    assert [line for line in lines if line] == PROJECT["project"]["dependencies"]


def test_the_registry_finds_what_it_asks_for():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert project["name"] == "controlnet-plus-plus"
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"] == {"file": "LICENSE"}
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui"} <= set(comfy)


def test_pip_puts_nothing_into_site_packages():
    assert PROJECT["tool"]["setuptools"]["packages"] == []


def test_the_licence_is_the_whole_gpl_3():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE Version 3," in " ".join(text.split())
    assert "17. Interpretation of Sections 15 and 16." in text


def test_files_of_trained_networks_name_this_version():
    assert PROJECT["project"]["version"] == VERSION


def test_the_changelog_starts_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", text, re.MULTILINE)
    assert versions[0] == PROJECT["project"]["version"]


def test_the_web_directory_exists_if_it_is_named():
    body = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")).body
    named = [n for n in body if isinstance(n, ast.Assign) and n.targets[0].id == "WEB_DIRECTORY"]
    assert "web" not in PROJECT["tool"]["comfy"]  # one of both, never both
    assert (ROOT / ast.literal_eval(named[0].value)).is_dir()


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_every_link_to_a_file_leads_somewhere(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text)
    targets = [a or b for a, b in links if not (a or b).startswith(("http", "mailto:"))]
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_the_readme_lists_exactly_the_nodes_that_exist():
    listed = re.findall(r"^\| \*\*(.+?)\*\* \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(NAMES[key]["display_name"] for key in PINS)


def test_the_readme_quotes_error_messages_as_they_are_in_the_code():
    quoted = re.findall(r"^\*\*`(.+?)`\*\*", README, re.MULTILINE)
    said = "\n".join(text for file in python_files() for text in strings_in(tree(file)))
    pieces = [piece.strip() for text in quoted for piece in text.split("…") if piece.strip()]
    assert pieces
    assert not [piece for piece in pieces if piece not in said]


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def python_files() -> list[Path]:
    folders = ("cnpp_core", "annotators", "nodes", "demo")
    return [ROOT / "cli.py", *(f for top in folders for f in sorted((ROOT / top).rglob("*.py")))]


def strings_in(node: ast.AST) -> list[str]:
    """Every text in the code, f-strings as the pieces between their values."""
    found = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return [value for value in found if isinstance(value, str)]


def test_no_file_holds_a_path_of_somebodys_machine():
    paths = re.compile(r"(?<![\w.:/~$}-])/(?:root|work|tmp|home|Users)/\w")
    found = []
    for file in tracked():
        data = file.read_bytes()
        if b"\0" not in data and paths.search(data.decode("utf-8", errors="replace")):
            found.append(file.relative_to(ROOT).as_posix())
    assert not found


def test_the_repository_stays_small_enough_to_clone():
    assert sum(file.stat().st_size for file in tracked()) < 48e6
