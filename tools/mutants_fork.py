"""Tests in a fork of this process: what it has imported, no run has to import again."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path

import pytest

MEMORY = 8 << 30  # bytes; a fault may ask for any number
PATIENCE = 15


def passes(file: Path, seconds: float, folder: Path) -> bool:
    """True if the file's tests pass within so many seconds of computing; the first failure ends it.

    By the clock they get PATIENCE times as long, for a busy machine. folder: where the tests write;
    afterwards log.txt in it holds what pytest said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [
        *("--exitfirst", "--quiet", "-p", "no:cacheprovider"),
        *("--basetemp", str(folder / "temporary"), str(file)),
    ]
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_run, args=(arguments, math.ceil(seconds), folder / "log.txt"))
    process.start()
    process.join(PATIENCE * seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)  # and whatever the tests have started
    process.join()
    return process.exitcode == pytest.ExitCode.OK


def _run(arguments: list[str], seconds: int, log: Path) -> None:
    os.setsid()  # a group of its own, to be ended as one
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with log.open("w", encoding="utf-8") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
        sys.stdout = sys.stderr = stream
        code = pytest.main(arguments)
    os._exit(code)  # at once: what the parent would do at its end is not to be done here
