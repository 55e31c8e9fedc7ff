"""Settings from a TOML file and from flags; what is not known is refused by its name."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from .options import Options, settings_of

# float and float | None are read alike.
TYPES = {
    name: next((one for one in get_args(kind) if NoneType in get_args(kind)), kind)
    for name, kind in get_type_hints(Options).items()
}
NUMBERS = tuple[float, ...]


def read_options(command: str, argv: Sequence[str], about: str) -> Options:
    """The settings of a command; flags come before the file, the file before the defaults.

    Raises ValueError for a file or flag that can't be used. `--help` prints and exits.
    """
    parser = _parser(command, about)
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].lstrip("-").partition("=")[0].replace("-", "_")
        raise ValueError(f"There is no flag {unknown[0]}{_near(name, command, flag=True)}.")
    given = vars(found)
    file = given.pop("file")
    settings = {} if file is None else read_toml(file, command)
    return Options(**{**settings, **given})


def read_toml(path: Path, command: str) -> dict[str, Any]:
    """The settings in a file, whose names are those of `Options`.

    ValueError with the line for what is not TOML, not a setting, or not of its type.
    """
    try:
        tomllib = importlib.import_module("tomllib")
    except ImportError as error:
        raise ValueError(
            "A file of settings needs Python 3.11 or newer; give them as flags instead."
        ) from error
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} can't be read as TOML: {error}.") from error
    known = settings_of(command)
    settings = {}
    for name, value in table.items():
        where = f"{path}, line {_line_of(name, text)}"
        if name not in known:
            what = "table" if isinstance(value, dict) else "setting"
            raise ValueError(f"{where}: there is no {what} '{name}'{_near(name, command)}.")
        try:
            settings[name] = _of_toml(value, TYPES[name])
        except ValueError as error:
            raise ValueError(f"{where}: {name} is {value!r}, expected {error}.") from error
    return settings


def _parser(command: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"cli.py {command}", description=about, allow_abbrev=False
    )
    parser.add_argument("file", nargs="?", type=Path, help="TOML file with any of the settings")
    groups: dict[str, Any] = {}
    for name, one in settings_of(command).items():
        if one.section not in groups:
            groups[one.section] = parser.add_argument_group(one.section)
        group, text = groups[one.section], one.help
        default = getattr(Options, name)
        if default not in (None, "", (), False):
            text += f" (default: {default})"
        flag = f"--{name.replace('_', '-')}"
        if TYPES[name] is bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(flag, action=action, default=argparse.SUPPRESS, help=text)
        else:
            group.add_argument(
                flag,
                type=_of_text(TYPES[name]),
                choices=one.choices or None,
                default=argparse.SUPPRESS,
                metavar=None if one.choices else name.upper(),
                help=text,
            )
    return parser


def _of_text(kind: Any) -> Callable[[str], Any]:
    if kind == NUMBERS:

        def numbers(text: str) -> tuple[float, ...]:
            return tuple(float(part) for part in text.split(","))

        return numbers
    return kind


def _of_toml(value: Any, kind: Any) -> Any:
    """The value as the setting takes it; ValueError with what was expected."""
    if kind == NUMBERS:
        if isinstance(value, list) and all(_is(one, (int, float)) for one in value):
            return tuple(float(one) for one in value)
        raise ValueError("a list of numbers, such as [100, 200]")
    if kind is Path:
        if isinstance(value, str):
            return Path(value)
        raise ValueError('a path in quotes, such as "data/circles"')
    accepted, words = {
        bool: (bool, "true or false"),
        int: (int, "a whole number"),
        float: ((int, float), "a number"),
        str: (str, "a text in quotes"),
    }[kind]
    if not _is(value, accepted):
        raise ValueError(words)
    return float(value) if kind is float else value


def _is(value: Any, kinds: Any) -> bool:
    """As isinstance, but that true is no number."""
    return isinstance(value, kinds) and (kinds is bool or not isinstance(value, bool))


def _near(name: str, command: str, flag: bool = False) -> str:
    close = difflib.get_close_matches(name, settings_of(command), n=1)
    if not close:
        return f"; `python cli.py {command} --help` lists all"
    meant = f"--{close[0].replace('_', '-')}" if flag else f"'{close[0]}'"
    return f"; {meant} is meant perhaps"


def _line_of(name: str, text: str) -> int:
    """The number of the line that a name stands in, at its beginning."""
    start = re.compile(rf"\s*\[*\s*[\"']?{re.escape(name)}[\"']?\s*[=.\]]")
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if start.match(line)), 1)
