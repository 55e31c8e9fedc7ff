"""`nox -s mutants`: plant faults in a package, one at a time, and count those that its tests catch.

cosmic-ray makes the mutants. Each is written into the source, so this runs in a copy of the tree,
and tested in a fork of this process, which has imported torch but nothing that a mutant is in.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.commands import init
from cosmic_ray.modules import find_modules
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import MutationSpec

from . import mutants_fork
from .mutants import Mutant, Score, annotation_spans, compiles, equivalent, shuffled

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "out" / "mutants"
passes = partial(mutants_fork.passes, folder=SCRATCH)
TESTS = {
    "cnpp_core/control": "tests/control",
    "cnpp_core/checkpoint": "tests/checkpoint",
    "evaluate": "tests/evaluate",
}
# What tests import that takes long; here it is imported once.
PRELOADED = (
    *("torch", "torch._dynamo", "hypothesis", "torchmetrics"),
    *("scipy.ndimage", "sklearn.metrics", "transformers", "diffusers"),
)
TARGET = 0.85


class Planted(NamedTuple):
    """A mutant in its file. source: the text of the whole file with the fault in it."""

    mutant: Mutant
    file: Path
    source: str


def main(argv: Sequence[str] | None = None) -> int:
    """Score the packages, write the scores, and return 1 if one is below the target."""
    parser = argparse.ArgumentParser(prog="nox -s mutants --", description=main.__doc__)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=", ".join(TESTS))
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--sample", type=int, default=150, help="mutants of a package")
    parser.add_argument("--results", type=Path, help="a JSON file for the scores")
    options = parser.parse_args(argv)
    packages = options.packages or list(TESTS)
    unknown = [name for name in packages if name not in TESTS]
    if unknown:
        parser.error(f"there is no package {unknown[0]!r}, only {', '.join(TESTS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    os.environ["CI"] = "true"  # hypothesis draws the same examples each time and remembers none
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, each takes time
    for name in PRELOADED:
        import_module(name)
    gc.freeze()  # so that a fork's own collections pass over all of that
    scores = []
    for name in packages:
        scores.append(measure(name, options.seed, options.sample))
        logger.info("\n%s\n", scores[-1].text())
        if options.results:
            save(options.results, scores[-1], options.seed)
    return int(min(score.share for score in scores) < TARGET)


def measure(package: str, seed: int, count: int) -> Score:
    """Test a sample of the package's mutants. RuntimeError if the tests fail without one."""
    seconds = clean_run(sorted(ROOT.glob(f"{TESTS[package]}/test_*.py")))
    logger.info("%s: its tests take %.0f s", package, sum(seconds.values()))
    # A mutant may be as long as the source and written in the same second, which is all that Python
    # looks at before it takes what was compiled earlier.
    for folder in ROOT.joinpath(package).rglob("__pycache__"):
        shutil.rmtree(folder)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True

    specs = possible(package)
    # The tests of each file, the quickest first, and in front of them those that caught a mutant.
    orders: dict[Path, list[Path]] = defaultdict(lambda: sorted(seconds, key=seconds.__getitem__))
    fates = []
    for number, (mutant, file, source) in enumerate(drawn(specs, seed, count), 1):
        file.write_text(source, encoding="utf-8")
        caught = catches(orders[file], seconds)
        file.write_text(read(file), encoding="utf-8")
        fates.append((mutant, caught))
        what = "caught" if caught else f"not caught: {mutant.text()}"
        logger.info("%d of %d %s", number, count, what)
    return Score.of(package, len(specs), fates, equivalent())


def catches(order: list[Path], seconds: Mapping[Path, float]) -> bool:
    """True once tests fail or compute far too long; those come to the front of the order.

    seconds: what each takes without a mutant.
    """
    for tests in order:
        if not passes(tests, max(30.0, 4 * seconds[tests])):
            order.remove(tests)
            order.insert(0, tests)
            return True
    return False


def clean_run(files: Sequence[Path]) -> dict[Path, float]:
    """The seconds of computing that each test file takes."""
    seconds = {}
    for file in files:
        start = computed()
        if not passes(file, 900):
            said = (SCRATCH / "log.txt").read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"{file.relative_to(ROOT)} fails without a mutant:\n{said}")
        seconds[file] = computed() - start
        logger.info("%s: %.1f s", file.relative_to(ROOT), seconds[file])
    return seconds


def computed() -> float:
    """Seconds of all forks so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def possible(package: str) -> list[MutationSpec]:
    """Every mutant that cosmic-ray can make, but for those of annotations."""
    database = WorkDB(":memory:", WorkDB.Mode.create)
    init(find_modules([Path(package)]), database, {})
    specs = [mutation for item in database.work_items for mutation in item.mutations]
    database.close()
    spans = {spec.module_path: annotation_spans(read(spec.module_path)) for spec in specs}
    return [
        spec
        for spec in specs
        if not any(start <= spec.start_pos < end for start, end in spans[spec.module_path])
    ]


def drawn(specs: Sequence[MutationSpec], seed: int, count: int) -> Iterator[Planted]:
    """The first mutants in the order of the seed, but for those that don't compile."""
    for spec in in_order(specs, seed):
        if not count:
            return
        source = read(spec.module_path)
        operator = get_operator(spec.operator_name)(**spec.operator_args)
        mutated = mutate_code(source, operator, spec.occurrence)
        if mutated is not None and compiles(mutated):
            mutant = Mutant.of(spec.module_path.as_posix(), source, mutated)
            yield Planted(mutant, spec.module_path, mutated)
            count -= 1


def in_order(specs: Sequence[MutationSpec], seed: int) -> list[MutationSpec]:
    """The mutants in the order of the seed."""
    specs = sorted(specs, key=lambda spec: spec.occurrence)
    lines = {spec.module_path: read(spec.module_path).splitlines() for spec in specs}
    identities = [
        (
            s.module_path.as_posix(),
            s.operator_name,
            lines[s.module_path][s.start_pos[0] - 1].strip(),
        )
        for s in specs
    ]
    return [specs[place] for place in shuffled(identities, seed)]


def save(file: Path, score: Score, seed: int) -> None:
    """Write the score of a package; those of others stay as they are in the file."""
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    results[score.package] = {"seed": seed, **score.as_dict()}
    file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8", newline="\n")


@cache
def read(file: Path) -> str:
    """A source file, as it was before the first mutant."""
    return file.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
