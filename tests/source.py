"""The source of the pack, read without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NOT_OF_THE_PACK = {"tests", "noxfile"}


class Import(NamedTuple):
    file: str
    line: int
    module: str  # dotted, from the root of the pack if it is ours; may end in a name inside it
    relative: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def children(package: str = "") -> Iterator[str]:
    """The modules and packages right below a package, dotted; the root without one."""
    for path in sorted(ROOT.joinpath(*package.split(".")).iterdir()):
        hidden = path.name.startswith((".", "__"))
        if not hidden and (path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))):
            yield ".".join(filter(None, (package, path.stem)))


def sources() -> list[Path]:
    """Every module of the pack."""
    files = [ROOT / "__init__.py"]
    for name in children():
        if name not in NOT_OF_THE_PACK:
            folder = ROOT / name
            files += sorted(folder.rglob("*.py")) if folder.is_dir() else [ROOT / f"{name}.py"]
    return files


def dotted(file: Path) -> str:
    """A module's name from the root of the pack: cnpp_core.control for its __init__, too."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(file: Path) -> Iterator[Import]:
    """All imports of a file, also those inside functions, relative ones made absolute.

    Also importlib.import_module("..name", __package__), which imports as well.
    """
    name = file.relative_to(ROOT).as_posix()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (Import(name, node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield Import(name, node.lineno, node.module or "", False)
        elif isinstance(node, ast.ImportFrom):
            base = [*_above(file, node.level, node.lineno), *(node.module or "").split(".")]
            for alias in node.names:
                yield Import(name, node.lineno, ".".join([*filter(None, base), alias.name]), True)
        elif called := _imported_by_call(node):
            level = len(called) - len(called.lstrip("."))
            base = [*_above(file, level, node.lineno), called[level:]]
            yield Import(name, node.lineno, ".".join(filter(None, base)), True)


def _above(file: Path, level: int, line: int) -> tuple[str, ...]:
    """The package that so many dots stand for."""
    package = file.relative_to(ROOT).parent.parts
    assert level <= len(package) + 1, f"{file}:{line} leaves the pack"
    return package[: len(package) - level + 1]


def _imported_by_call(node: ast.AST) -> str:
    """The relative name in import_module("..name", __package__), or nothing."""
    if not isinstance(node, ast.Call) or not node.args:
        return ""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    first = node.args[0]
    if name != "import_module" or not isinstance(first, ast.Constant):
        return ""
    return first.value if str(first.value).startswith(".") else ""


def thawed(folder: str) -> list[str]:
    """The dataclasses below a folder whose fields can be set, as file:line."""
    return [
        f"{file.relative_to(ROOT)}:{mark.lineno}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ClassDef)
        for mark in node.decorator_list
        if ast.unparse(mark).startswith("dataclass") and "frozen=True" not in ast.unparse(mark)
    ]
