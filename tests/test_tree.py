"""The rules of the tree, read off the source without importing it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from controlnet_pp.tests.source import ROOT, children, imports, sources, tree

MAX_LINES = 400

# The dependencies, and what every ComfyUI has installed for itself.
THIRD_PARTY = {"torch", "numpy", "safetensors", "PIL", "cv2", "einops"}
INTERNALS = {
    *("comfy", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview"),
    *("nodes", "node_helpers", "server"),
}
HOST = INTERNALS | {"comfy_api"}
# What only a part has to do with. Of `tools`, people who work on the pack have more installed; what
# the core has here, it imports when it is asked for, and refuses in words where it is missing.
BEYOND = {
    "nodes": HOST,
    "bench": {"diffusers"},
    "tools": {"pytest", "cosmic_ray"},
    "cnpp_core": {"accelerate", "bitsandbytes"},
}


def test_the_packs_own_modules_are_imported_relatively():
    own = {*children(), "controlnet_pp"}
    found = [
        str(entry)
        for file in sources()
        for entry in imports(file)
        if not entry.relative and entry.module.split(".")[0] in own
    ]
    assert not found


def test_only_the_dependencies_and_the_hosts_packages_are_imported():
    known = THIRD_PARTY | set(sys.stdlib_module_names)
    found = []
    for file in sources():
        top = file.relative_to(ROOT).parts[0]
        extra = BEYOND.get(top, set())
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
    files = [*sources(), *(ROOT / "tests").rglob("*.py")]
    lines = {str(f.relative_to(ROOT)): len(f.read_text("utf-8").splitlines()) for f in files}
    assert not {file: count for file, count in lines.items() if count > MAX_LINES}


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
