"""Tests in a fork: what counts as passing, and that nothing of them stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="no system without it can fork")
from controlnet_pp.tools import mutants_fork
from controlnet_pp.tools.mutants_fork import MEMORY, passes


def outcome(folder: Path, *bodies: str, seconds: float = 60) -> bool:
    file = folder / "test_a.py"
    tests = [f"def test_{number}():\n    {body}\n" for number, body in enumerate(bodies)]
    file.write_text("\n\n".join(["import os, subprocess, sys, time\n", *tests]))
    return passes(file, seconds, folder / "scratch")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_tests_have_to_pass(tmp_path: Path):
    assert outcome(tmp_path, "pass", "pass")
    assert not outcome(tmp_path, "pass", "assert False")


def test_the_first_failure_ends_it_and_the_log_says_which(tmp_path: Path):
    assert not outcome(tmp_path, "assert 1 == 2", "pass")
    log = (tmp_path / "scratch" / "log.txt").read_text()
    assert "assert 1 == 2" in log
    assert "1 failed" in log
    assert "passed" not in log


def test_a_crash_is_no_pass(tmp_path: Path):
    assert not outcome(tmp_path, "os.abort()")


def test_what_computes_too_long_is_no_pass_and_is_ended(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(mutants_fork, "PATIENCE", 10_000)
    assert not outcome(tmp_path, "while True: pass", seconds=3)


def test_what_sleeps_too_long_is_no_pass_and_is_ended(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(mutants_fork, "PATIENCE", 1)
    assert not outcome(tmp_path, "time.sleep(800)", seconds=3)


def test_more_memory_than_allowed_is_refused(tmp_path: Path):
    assert not outcome(tmp_path, f"bytearray({2 * MEMORY})")


def test_processes_that_a_test_leaves_behind_are_ended(tmp_path: Path):
    command = "[sys.executable, '-c', 'import time; time.sleep(600)']"
    file = tmp_path / "pid"
    body = f"open({str(file)!r}, 'w').write(str(subprocess.Popen({command}).pid))"
    assert outcome(tmp_path, body)
    deadline = time.monotonic() + 30
    while is_running(int(file.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(file.read_text()))


def test_what_a_fork_changes_is_its_own(tmp_path: Path):
    assert outcome(tmp_path, "os.environ['OF_THE_FORK'] = sys.modules['pytest'].of_the_fork = '1'")
    assert "OF_THE_FORK" not in os.environ
    assert not hasattr(pytest, "of_the_fork")
