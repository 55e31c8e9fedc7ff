"""Who may import whom. What has no row here fails, so that a new part says where it belongs."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import pytest
from controlnet_pp.tests.source import (
    NOT_OF_THE_PACK,
    ROOT,
    Import,
    children,
    dotted,
    imports,
    sources,
)

HOST = "nodes.host"
CORE = "cnpp_core"
CONSISTENCY = f"{CORE}.consistency"
# A part and what it may import beside itself; a name stands for everything below it, too. A file
# belongs to the longest name that it begins with.
ARROWS: dict[str, set[str]] = {
    "__init__": {"nodes"},
    "cli": set(),  # it imports the part that it is asked for by name
    "annotators": {"annotators.weights"},
    # The one arrow against the rule: who loads weights reads files, and shows what stands in them,
    # as safely as the core does.
    "annotators.weights": {"annotators", f"{CORE}.checkpoint.read", f"{CORE}.checkpoint.words"},
    "pictures": {CORE},
    "dataset": {"annotators", CORE, "pictures"},
    "demo": {"annotators", CORE, "dataset", "pictures"},
    "evaluate": {"annotators", CORE, "pictures"},
    # What a training takes of the others: readers, annotators by name, the built-in model.
    "train": {"annotators", CORE, "dataset", "demo", "evaluate.sources", "pictures"},
    "bench": {"annotators", CORE, "demo"},
    "tools": {"annotators", CORE, "nodes", "tests.comfy_host"},
    CORE: set(),
    f"{CORE}.network": set(),
    f"{CORE}.checkpoint": {f"{CORE}.network"},
    f"{CORE}.control": {f"{CORE}.network"},
    f"{CORE}.diffusion": {f"{CORE}.network"},
    CONSISTENCY: set(),
    f"{CONSISTENCY}.metrics": set(),
    f"{CONSISTENCY}.resize": set(),
    f"{CONSISTENCY}.losses": {f"{CONSISTENCY}.metrics"},
    f"{CONSISTENCY}.agreement": {f"{CONSISTENCY}.metrics", f"{CONSISTENCY}.resize"},
    f"{CONSISTENCY}.check": {f"{CONSISTENCY}.agreement", f"{CONSISTENCY}.resize"},
    f"{CONSISTENCY}.search": {
        f"{CONSISTENCY}.agreement",
        f"{CONSISTENCY}.check",
        f"{CORE}.control",
    },
    f"{CONSISTENCY}.steering": {
        f"{CONSISTENCY}.agreement",
        f"{CONSISTENCY}.losses",
        f"{CONSISTENCY}.resize",
    },
    # The table of kinds. It stands above what it lists, so nothing of that may ask it.
    f"{CORE}.condition": {f"{CONSISTENCY}.agreement", f"{CONSISTENCY}.losses"},
    f"{CORE}.misfit": {f"{CORE}.condition"},
    f"{CORE}.training": {
        CONSISTENCY,
        *(f"{CORE}.{name}" for name in ("condition", "control", "diffusion", "network")),
    },
    "nodes": {
        f"nodes.{group}" for group in ("annotate", "consistency", "control", "load", "train")
    },
    "nodes.schema": set(),
    "nodes.annotate": {"nodes.schema", f"{HOST}.annotate", "annotators", CORE},
    "nodes.control": {"nodes.schema", f"{HOST}.control", CORE, "pictures"},
    "nodes.consistency": {
        *("nodes.schema", "nodes.annotate"),
        *(f"{HOST}.annotate", f"{HOST}.select", f"{HOST}.steering"),
        *("annotators", CORE, "pictures"),
    },
    "nodes.load": {
        *("nodes.schema", "nodes.annotate"),
        *(f"{HOST}.load", f"{HOST}.control"),
        *("annotators", CORE),
    },
    "nodes.train": {
        *("nodes.schema", "nodes.annotate", "nodes.consistency"),
        *(f"{HOST}.annotate", f"{HOST}.train"),
        *(CORE, "pictures"),
    },
    HOST: set(),
    f"{HOST}.memory": set(),
    f"{HOST}.control": {f"{HOST}.memory", "annotators", CORE},
    f"{HOST}.annotate": {f"{HOST}.memory", "annotators", CORE},
    f"{HOST}.load": {f"{HOST}.control", f"{HOST}.annotate", "annotators", CORE},
    f"{HOST}.load.demo": {f"{HOST}.load", f"{HOST}.annotate", "annotators", CORE, "demo"},
    f"{HOST}.select": {f"{HOST}.annotate", f"{HOST}.control", f"{HOST}.memory", CORE, "pictures"},
    f"{HOST}.steering": {f"{HOST}.control", f"{HOST}.annotate", f"{HOST}.memory", CORE},
    f"{HOST}.train": {
        *(f"{HOST}.{room}" for room in ("annotate", "control", "load", "memory", "steering")),
        *("annotators", CORE, "dataset", "demo", "pictures"),
    },
}
# Packages that are divided: everything right below them has a row of its own.
DIVIDED = ("", CORE, CONSISTENCY, "nodes", HOST)


def below(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def part_of(name: str) -> str:
    """The row of a module, or of something in it."""
    return max((part for part in ARROWS if below(name, part)), key=len, default="")


def is_allowed(entry: Import, part: str) -> bool:
    """Into the same part, but not into one with a row of its own, or along an arrow."""
    there = part_of(entry.module)
    return there == part or any(below(entry.module, target) for target in ARROWS[part])


def own_imports() -> list[tuple[str, Import]]:
    """(module, what it imports of the pack)."""
    return [
        (dotted(file), entry) for file in sources() for entry in imports(file) if entry.relative
    ]


def test_every_part_of_the_tree_has_a_row():
    found = {name for package in DIVIDED for name in children(package)} - NOT_OF_THE_PACK
    assert not sorted(found - set(ARROWS)), "no row says what these may import"
    homeless = [dotted(file) for file in sources() if not part_of(dotted(file))]
    assert not homeless


def test_every_row_is_of_a_part_that_is_there():
    there = {dotted(file) for file in sources()}
    named = set(ARROWS) | {target for targets in ARROWS.values() for target in targets}
    assert not sorted(named - there - {"tests.comfy_host"})


def test_every_import_follows_the_arrows():
    wrong = [
        str(entry) for module, entry in own_imports() if not is_allowed(entry, part_of(module))
    ]
    assert not wrong


def test_annotators_and_core_do_not_know_each_other():
    pairs = [("annotators", CORE), (CORE, "annotators")]
    found = [
        str(entry)
        for here, there in pairs
        for file in (ROOT / here).rglob("*.py")
        for entry in imports(file)
        if below(entry.module, there) and entry.file != "annotators/weights.py"
    ]
    assert not found


def require_no_circle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " imports ".join(reversed(error.args[1])))


def test_no_module_is_imported_by_what_it_imports():
    """Nor round more corners; imports inside functions count, since they only hide a circle.

    A package's own module counts where something is imported from it.
    """
    modules = {dotted(file) for file in sources()}
    graph: dict[str, set[str]] = {}
    for module, entry in own_imports():
        inside = entry.module if entry.module in modules else entry.module.rpartition(".")[0]
        graph.setdefault(module, set()).add(inside)
    require_no_circle(graph)


def test_the_arrows_themselves_go_round_nowhere():
    graph = {
        part: {row for row in ARROWS for target in targets if below(row, target)}
        for part, targets in ARROWS.items()
    }
    # A row inside another part may look at the rest of it, and the rest at the row.
    graph = {
        part: {row for row in rows if not below(row, part) and not below(part, row)}
        for part, rows in graph.items()
    }
    require_no_circle(graph)
