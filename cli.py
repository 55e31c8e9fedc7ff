"""The command line: `python cli.py demo`, `report FILE`, ... in any folder, under any folder name.

It mounts the checkout as a package, as ComfyUI does, and calls the part that is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from itertools import takewhile
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
PACKAGE = "controlnet_pp"  # the folder's own name may hold hyphens, dots or "++"

USAGE = """usage: python cli.py [--debug] COMMAND [arguments]

  demo [--help]          the whole cycle on the built-in demo model: picture, condition,
                         sampling with and without control, consistency
  demo train [--help]    train the weights of the demo model again, from its seed
  demo circles [--help]  write a small set to train a ControlNet with: circles, outlines, prompts
  train [FILE.toml] [--help]
                         train a ControlNet, for the demo model or a real one
  reward [FILE.toml] [--help]
                         fine-tune a ControlNet with an annotator as its reward: ControlNet++
  captions FOLDER --model FOLDER
                         write captions beside pictures that have none
  evaluate KIND PICTURES CONDITIONS
                         how well a folder of pictures follows a folder of conditions:
                         table, CSV file, page with the worst cases (--help for options)
  report FILE            what a ControlNet file holds: family, format, parameters, cost
  report sd15|sd21|sdxl  the same for the network of that family, without a file
  report annotators      parameters, cost and sizes of the networks that find conditions
  bench [NAME ...]       measurements beside other implementations; `control` needs ComfyUI and
                         its Python
  bench NAME --help      the options of one of them
  texts [--help]         for developers: write what repeats the texts of the nodes; needs ComfyUI
                         and its Python

  --debug                show where an error comes from"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 a result that fails, 2 wrong input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every console has every character
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments[:1]
    arguments = arguments[debug:]
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(message)s")

    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        return _refuse(f"there is no command {name!r}, only {', '.join(COMMANDS)}")
    try:
        return COMMANDS[name](rest) or 0
    except ModuleNotFoundError as error:
        if debug or (error.name or "").startswith(PACKAGE):
            raise
        return _refuse(
            f"this Python lacks the package {error.name!r}: "
            "run it through nox (pip install nox, then nox -s demo), which installs what it needs"
        )
    except (ValueError, OSError) as error:
        if debug:
            raise
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130


def demo(argv: Sequence[str]) -> int | None:
    """The demonstration; `train` in front trains its weights, `circles` writes a data set."""
    if argv[:1] in (["train"], ["circles"]):
        return part(f"demo.{argv[0]}").main(argv[1:])
    return part("demo.command").main(argv)


def train(argv: Sequence[str]) -> int:
    """Train a ControlNet."""
    return part("train.command").main("train", argv)


def reward(argv: Sequence[str]) -> int:
    """Fine-tune a ControlNet by a reward."""
    return part("train.command").main("reward", argv)


def captions(argv: Sequence[str]) -> int:
    """Write captions by an image-to-text model."""
    return part("train.captions").main(argv)


def evaluate(argv: Sequence[str]) -> int:
    """Score a directory of pictures against a directory of conditions."""
    return part("evaluate.command").main(argv)


def report(argv: Sequence[str]) -> int:
    """Print parameters and MACs of a ControlNet file, a family's network, or the annotators."""
    if len(argv) != 1 or argv[0].startswith("-"):
        raise ValueError("usage: python cli.py report FILE|sd15|sd21|sdxl|annotators")
    if argv[0].lower() == "annotators":
        print(part("annotators.costs").text())
        return 0
    checkpoint = part("cnpp_core.checkpoint")
    families = {"sd15": "SD15", "sd21": "SD21", "sdxl": "SDXL"}
    if argv[0].lower() in families:
        config = getattr(part("cnpp_core.network.config"), families[argv[0].lower()])
    else:
        loaded = checkpoint.load_controlnet_file(Path(argv[0]))
        config = loaded.config
        print(f"{argv[0]}: {loaded.format}, {str(loaded.dtype).removeprefix('torch.')}")
        if loaded.training:
            print(loaded.training.text())
    print(checkpoint.report(config).text())
    return 0


def bench(argv: Sequence[str]) -> int:
    """Run the named measurements of bench/, all of them without a name; one takes options too."""
    files = sorted((ROOT / "bench").glob("[!_]*.py"))
    known = [file.stem for file in files]
    names = list(takewhile(lambda argument: not argument.startswith("-"), argv))
    options = argv[len(names) :]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"there is no measurement {unknown[0]!r}, only {', '.join(known)}")
    if options and len(names) != 1:
        raise ValueError(f"{options[0]} needs one measurement in front: bench NAME {options[0]}")
    return max(part(f"bench.{name}").main(options) or 0 for name in names or known)


def texts(argv: Sequence[str]) -> None:
    """Write every text that repeats the words of the nodes, and list the gaps in Chinese."""
    print(part("tools.texts").main(argv))


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "demo": demo,
    "train": train,
    "reward": reward,
    "captions": captions,
    "evaluate": evaluate,
    "report": report,
    "bench": bench,
    "texts": texts,
}


def part(name: str) -> ModuleType:
    """The module of the pack with this dotted name, e.g. `demo.command`."""
    if PACKAGE not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        if spec is None or spec.loader is None:
            raise FileNotFoundError(
                f"{ROOT / '__init__.py'} is missing: the checkout is incomplete"
            )
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = module
        spec.loader.exec_module(module)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
