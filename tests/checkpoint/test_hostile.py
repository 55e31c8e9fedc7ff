"""Hostile files: answered within seconds and little memory, whatever they hold, and in words."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from controlnet_pp.tests.checkpoint.hostile import HOSTILE

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 2.0  # of computing, whatever else the machine does
MEGABYTES = 200.0
# In a process of its own, beside no other test's memory.
CHILD = """
import json, os, sys, time
import torch
from cnpp_core.checkpoint import load_controlnet_file
torch.set_num_threads(1)
found = {}
def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024
for name in sorted(os.listdir(sys.argv[1])):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM, the most that was ever taken, begins anew
    start = memory("VmRSS")
    clock = time.process_time()
    try:
        load_controlnet_file(os.path.join(sys.argv[1], name))
        said = ""
    except BaseException as error:
        said = f"{type(error).__qualname__}: {error}"
    took = time.process_time() - clock
    found[name] = [took, memory("VmHWM") - start, said]
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, tuple[float, float, str]]:
    """Seconds, megabytes above the start, and what was said, by the name of the file."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the largest memory since a moment")
    folder = tmp_path_factory.mktemp("hostile")
    for name, write in HOSTILE.items():
        write(folder / name)
    command = [sys.executable, "-c", CHILD, str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_moment_in_one_printable_sentence(answers, name):
    seconds, megabytes, said = answers[name]
    assert re.fullmatch(rf"ValueError: {re.escape(name)} .*: .*\.", said), said
    assert said.isprintable()
    assert len(said) < 600
    assert seconds < SECONDS
    assert megabytes < MEGABYTES
