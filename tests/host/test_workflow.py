"""The quick start as users run it: through the executor, and through a server over HTTP."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from controlnet_pp.tests.host.graphs import Graph, checked, node, node_of, saved, shipped

FOLDER = "controlnet-plus-plus"
BOOT_SECONDS = 240
LEFT_OUT = shutil.ignore_patterns(".git", ".nox", ".ci", "tests", "bench", "__pycache__", ".*")


@pytest.fixture
def quickstart() -> Graph:
    return shipped("quickstart_demo")


def test_the_quick_start_runs_and_the_pictures_follow_the_edges(host, quickstart):
    outputs = host.run(quickstart)
    check = outputs[node_of(quickstart, "CNPP_CycleConsistencyCheck")]
    assert len(check["images"]) == len(saved(host, outputs, quickstart)) == 4
    assert check["text"][0].startswith("Edge F1 (within 1 pixel)")
    with_control = checked(outputs, quickstart)
    without = copy.deepcopy(quickstart)
    without[node_of(without, "CNPP_Apply")]["inputs"]["strength"] = 0.0
    outputs = host.run(without)
    assert with_control >= 2 * checked(outputs, without)


def quick(graph: Graph) -> Graph:
    """Fewer steps and pictures, where it does not matter how good they are."""
    graph[node_of(graph, "KSampler")]["inputs"]["steps"] = 4
    graph[node_of(graph, "EmptyLatentImage")]["inputs"]["batch_size"] = 1
    return graph


def test_queued_again_after_another_run_it_gives_the_same_pictures(host, quickstart):
    first = saved(host, host.run(quick(quickstart)), quickstart)
    other = copy.deepcopy(quickstart)
    other[node_of(other, "KSampler")]["inputs"]["seed"] += 1
    other[node_of(other, "CNPP_Apply")]["inputs"]["strength"] = 0.5
    different = saved(host, host.run(other, keep_cache=True), other)
    again = saved(host, host.run(quickstart, keep_cache=True), quickstart)
    assert (first != different).any()
    assert (first == again).all()


def test_a_preset_and_the_report_run_in_the_executor(host, quickstart):
    control = [node_of(quickstart, "CNPP_DemoModel"), 3]
    report = {"control_net": control, "width": 128, "height": 128}
    quickstart["report"] = node("CNPP_ControlNetReport", **report)
    neutral = saved(host, host.run(quick(quickstart)), quickstart)
    quickstart[node_of(quickstart, "CNPP_BlockScalePreset")]["inputs"]["preset"] = "mid only"
    outputs = host.run(quickstart)
    assert (saved(host, outputs, quickstart) != neutral).any()
    assert "at 128 x 128" in outputs["report"]["text"][0]


def test_a_wrong_number_of_scales_stops_the_graph_at_apply(host, quickstart):
    sliders = {f"in_{i}": 1.0 for i in range(12)} | {"middle": 1.0}
    quickstart["sliders"] = node("CNPP_BlockScalesSD15", **sliders)
    apply = node_of(quickstart, "CNPP_Apply")
    quickstart[apply]["inputs"]["scales"] = ["sliders", 0]
    with pytest.raises(RuntimeError) as error:
        host.run(quickstart)
    message = error.value.args[0]
    assert message["node_id"] == apply
    assert "13 numbers" in message["exception_message"]


@pytest.fixture(scope="module")
def server(comfy_root: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory):
    """The address of a ComfyUI of its own with the pack in custom_nodes, and its folder."""
    base = tmp_path_factory.mktemp("server")
    shutil.copytree(repo, base / "custom_nodes" / FOLDER, ignore=LEFT_OUT)
    (base / "user").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = base / "log.txt"
    command = [sys.executable, "main.py", "--cpu", "--port", str(port)]
    command += ["--base-directory", str(base), "--disable-api-nodes", "--disable-auto-launch"]
    command += ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=comfy_root, stdout=out, stderr=subprocess.STDOUT, env=_clean_environment()
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: ask(address, "/system_stats"), process, log)
        yield address, base
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}


def ask(address: str, path: str, body: dict | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, data), timeout=30) as reply:
        return reply.read()


def wait_for(attempt, process: subprocess.Popen, log: Path):
    """What `attempt` returns as soon as it is true and the server answers."""
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if answer := attempt():
                return answer
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.3)
    said = log.read_text(errors="replace")
    if re.search(r"comfyui_workflow_templates.templates' does not exist", said):
        pytest.skip("this ComfyUI can't start with this Python's comfyui_workflow_templates")
    pytest.fail(f"no answer from the server:\n{said[-4000:]}")


def test_a_server_runs_the_quick_start_and_serves_the_pack(server, quickstart):
    address, base = server
    name = json.loads(ask(address, "/prompt", {"prompt": quickstart}))["prompt_id"]
    end = time.monotonic() + BOOT_SECONDS
    while not (history := json.loads(ask(address, f"/history/{name}"))):
        assert time.monotonic() < end
        time.sleep(0.3)
    assert history[name]["status"]["status_str"] == "success", history[name]["status"]
    outputs = history[name]["outputs"]
    for image in outputs[node_of(quickstart, "SaveImage")]["images"]:
        assert (base / "output" / image["filename"]).is_file()
    assert "Edge F1" in outputs[node_of(quickstart, "CNPP_CycleConsistencyCheck")]["text"][0]

    info = json.loads(ask(address, "/object_info/CNPP_Apply"))["CNPP_Apply"]
    assert info["category"] == "ControlNet++/control"
    assert "quickstart_demo" in json.loads(ask(address, "/workflow_templates"))[FOLDER]
    assert b"Apply ControlNet++" in ask(address, f"/extensions/{FOLDER}/docs/CNPP_Apply.md")
