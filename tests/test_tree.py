"""The rules of the tree, read off the source without importing it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OWN = ("cnpp_core", "annotators", "pictures", "evaluate", "nodes", "demo", "bench", "tools")
MAX_LINES = 400

# Who may import whom, beside itself. Inside the core a name is its sub-package.
ALLOWED = {
    "network": set(),
    "checkpoint": {"network"},
    "control": {"network"},
    "diffusion": {"network"},
    "consistency": {"control", "diffusion", "network"},
    "training": {"consistency", "control", "diffusion", "network"},
    "condition": set(),
    "annotators": set(),
    "pictures": {"cnpp_core"},
    "demo": {"annotators", "cnpp_core", "pictures"},
    "evaluate": {"annotators", "cnpp_core"},
    "bench": {"annotators", "cnpp_core", "demo", "nodes"},
    "nodes": {"annotators", "cnpp_core", "pictures"},
    "tools": {"annotators", "cnpp_core", "nodes"},
    "nodes/demo": {"annotators", "cnpp_core", "demo", "nodes"},
}
# The one arrow against the rule: who loads weights reads files as safely as the core does.
EXCEPTION = ("annotators/weights.py", "cnpp_core.checkpoint.read")
# The dependencies, and what every ComfyUI has installed for itself.
THIRD_PARTY = {"torch", "numpy", "safetensors", "PIL", "cv2", "einops"}
INTERNALS = {
    *("comfy", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview"),
    *("nodes", "node_helpers", "server"),
}
HOST = INTERNALS | {"comfy_api"}


class Import(NamedTuple):
    file: str
    line: int
    module: str  # dotted, from the root of the pack if it is ours
    relative: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def sources() -> list[Path]:
    """Every module of the pack, without tests and sessions."""
    files = [ROOT / "__init__.py", ROOT / "cli.py"]
    return files + [file for top in OWN for file in sorted((ROOT / top).rglob("*.py"))]


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(file: Path) -> Iterator[Import]:
    """All imports of a file, also those inside functions, relative ones made absolute."""
    name = file.relative_to(ROOT).as_posix()
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (Import(name, node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield Import(name, node.lineno, node.module or "", False)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(package) + 1, f"{name}:{node.lineno} leaves the pack"
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            for alias in node.names:
                yield Import(name, node.lineno, ".".join([*filter(None, base), alias.name]), True)


def part_of(dotted: list[str]) -> str:
    """The row of ALLOWED that a module belongs to."""
    if dotted[0] == "cnpp_core":
        return dotted[1] if len(dotted) > 1 else "cnpp_core"
    if dotted[0] == "nodes" and any(name.startswith("demo") for name in dotted):
        return "nodes/demo"
    return dotted[0]


def is_exception(entry: Import) -> bool:
    file, module = EXCEPTION
    return entry.file == file and entry.module.rpartition(".")[0] == module


def test_every_import_follows_the_arrows():
    wrong = []
    for file in sources():
        here = part_of(list(file.relative_to(ROOT).with_suffix("").parts))
        if here not in ALLOWED:  # the root, cli.py and cnpp_core/__init__.py stand above
            continue
        for entry in imports(file):
            if not entry.relative or is_exception(entry):
                continue
            dotted = entry.module.split(".")
            there = {part_of(dotted), dotted[0]}
            if here not in there and not there & ALLOWED[here] and part_of(dotted) != "condition":
                wrong.append(str(entry))
    assert not wrong


def test_annotators_and_core_do_not_know_each_other():
    pairs = [("annotators", "cnpp_core"), ("cnpp_core", "annotators")]
    found = [
        str(entry)
        for here, there in pairs
        for file in (ROOT / here).rglob("*.py")
        for entry in imports(file)
        if entry.module.split(".")[0] == there and not is_exception(entry)
    ]
    assert not found


def test_the_packs_own_modules_are_imported_relatively():
    found = [
        str(entry)
        for file in sources()
        for entry in imports(file)
        if not entry.relative and entry.module.split(".")[0] in {*OWN, "controlnet_pp"}
    ]
    assert not found


def test_only_the_dependencies_and_the_hosts_packages_are_imported():
    known = THIRD_PARTY | set(sys.stdlib_module_names)
    found = []
    for file in sources():
        top = file.relative_to(ROOT).parts[0]
        extra = {"nodes": HOST, "bench": {"diffusers"}}.get(top, set())
        for entry in imports(file):
            if not entry.relative and entry.module.split(".")[0] not in known | extra:
                found.append(str(entry))
    assert not found


def test_the_root_imports_nothing_but_logging_when_loaded():
    top_level = [
        n for n in tree(ROOT / "__init__.py").body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    names = [alias.name for node in top_level for alias in node.names]
    assert names == ["logging"]


def host_names(file: Path) -> set[str]:
    """Names in a file that stand for ComfyUI's internals (not for its node API)."""
    names = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            modules = [(a.name, a.asname or a.name.split(".")[0]) for a in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [(node.module or "", a.asname or a.name) for a in node.names]
        else:
            continue
        names |= {bound for module, bound in modules if module.split(".")[0] in INTERNALS}
    return names


def root_name(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def test_only_nodes_host_subclasses_classes_of_the_host():
    found = []
    for file in sources():
        if (ROOT / "nodes" / "host") in file.parents:
            continue
        names = host_names(file)
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ClassDef) and any(root_name(b) in names for b in node.bases):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno} class {node.name}")
    assert not found


def test_nothing_of_the_host_is_replaced():
    found = []
    for file in sources():
        names = host_names(file)
        for node in ast.walk(tree(file)):
            targets = (
                node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            )
            for target in targets:
                if isinstance(target, ast.Attribute) and root_name(target) in names:
                    found.append(f"{file.relative_to(ROOT)}:{target.lineno}")
    assert not found


def test_a_module_can_be_read_in_one_go():
    lines = {f.relative_to(ROOT): len(f.read_text("utf-8").splitlines()) for f in sources()}
    assert not {str(file): n for file, n in lines.items() if n > MAX_LINES}


def test_every_module_says_what_it_is_for():
    empty = [str(f.relative_to(ROOT)) for f in sources() if not ast.get_docstring(tree(f))]
    assert not empty


def test_nothing_is_printed_outside_the_command_line():
    talkative = {"cli.py", "evaluate", "demo", "bench"}
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sources()
        if file.relative_to(ROOT).parts[0] not in talkative
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not found


def test_no_unfinished_business():
    marks = re.compile(r"\b(TODO|FIXME|XXX|raise NotImplementedError)\b")
    found = [str(f.relative_to(ROOT)) for f in sources() if marks.search(f.read_text("utf-8"))]
    assert not found
