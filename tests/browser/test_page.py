"""The templates in a real browser, in both renderers of ComfyUI's page: room for results, texts.

`nox -s browser` runs this; it needs a ComfyUI with its Python, playwright and a Chromium.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from controlnet_pp.tests import comfy_host
from controlnet_pp.tests.source import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: nox -s browser")

PACK = "controlnet-plus-plus"
DEMOS = sorted(path.stem for path in (ROOT / "workflows" / "api").glob("*.json"))
RENDERERS = {"classic": False, "nodes2": True}
SECONDS = 240
SETTLE = 2500  # milliseconds until the page has drawn what it was told

READY = "window.app?.graph && window.app.extensionManager"
OPEN = """async ([folder, name]) => {
    const file = await fetch(`/api/workflow_templates/${folder}/${name}.json`);
    await app.loadGraphData(await file.json(), true, true, name);
}"""
# A training takes minutes, and says as much after two steps.
SHORTER = """app.graph.nodes.filter((node) => /^CNPP_(Train|Reward)/.test(node.type))
    .flatMap((node) => node.widgets)
    .filter((widget) => ["steps", "sampling_steps", "validate_every"].includes(widget.name))
    .forEach((widget) => { widget.value = 2; })"""
SIZES = "Object.fromEntries(app.graph.nodes.map((node) => [node.id, [...node.size]]))"
# What can be read on the nodes without scrolling in them.
TEXTS = """() => [...document.querySelectorAll("[data-node-id], .dom-widget")]
    .filter((node) => [...node.querySelectorAll("*")].every(
        (e) => getComputedStyle(e).overflowY == "visible" || e.tagName == "BUTTON"
            || e.scrollHeight <= e.clientHeight + 2))
    .map((node) => node.innerText).join("\\n").replace(/\\s+/g, " ")"""


@dataclass(frozen=True)
class Seen:
    """What a template's run left on the page."""

    saved: dict[str, list[float]]  # sizes of the nodes, as in the file
    sizes: dict[str, list[float]]  # after the run
    lines: list[str]  # that the nodes have to say
    texts: dict[str, str]  # what can be read after the run, queued again, after a reload


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ComfyUI of its own, with this checkout in its custom_nodes."""
    root = comfy_host.find_host()
    named = os.environ.get("COMFYUI_PYTHON")
    python = Path(named).expanduser() if named else root and comfy_host.host_python(root)
    if root is None or python is None:
        pytest.skip("no ComfyUI with a Python of its own: set COMFYUI_PATH and COMFYUI_PYTHON")
    base = tmp_path_factory.mktemp("page")
    (base / "custom_nodes").mkdir()
    (base / "user").mkdir()
    (base / "custom_nodes" / PACK).symlink_to(ROOT, target_is_directory=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), "main.py", "--cpu", "--port", str(port), "--base-directory", str(base)]
    command += ["--disable-api-nodes", "--disable-auto-launch"]
    command += ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
    env = {**os.environ, "PYTHONPATH": os.environ.get("COMFYUI_EXTRAS", "")}
    with (base / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=root, stdout=log, stderr=log, env=env)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: process.poll() is not None or ask(address, "/system_stats"))
        assert process.poll() is None, (base / "log.txt").read_text(errors="replace")[-4000:]
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module", params=RENDERERS)
def page(request: pytest.FixtureRequest, address: str) -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    for name, value in (
        ("Comfy.VueNodes.Enabled", RENDERERS[request.param]),
        ("Comfy.TutorialCompleted", True),
    ):
        ask(address, f"/settings/{name}", value)
    with playwright.sync_playwright() as started:
        # Chromium's sandbox does not start in most containers.
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1800, "height": 1100})
        page.goto(address, timeout=1000 * SECONDS)
        page.wait_for_function(READY, timeout=1000 * SECONDS)
        page.wait_for_timeout(SETTLE)
        assert page.evaluate("!!LiteGraph.vueNodesMode") == RENDERERS[request.param]
        yield page
        browser.close()


@pytest.fixture(scope="module", params=DEMOS)
def seen(request: pytest.FixtureRequest, page: Any, address: str) -> Seen:
    graph = json.loads((ROOT / "workflows" / f"{request.param}.json").read_text(encoding="utf-8"))
    ask(address, "/free", {"free_memory": True})  # nothing of an earlier run comes from the cache
    page.evaluate(OPEN, [PACK, request.param])
    page.wait_for_timeout(SETTLE)
    page.evaluate(SHORTER)
    outputs = run(page, address)
    sizes = page.evaluate(SIZES)
    texts = {"run": page.evaluate(TEXTS)}
    run(page, address)
    texts["queued again"] = page.evaluate(TEXTS)
    page.reload()
    page.wait_for_function(READY, timeout=1000 * SECONDS)
    page.wait_for_timeout(SETTLE)
    page.evaluate(SHORTER)
    run(page, address)
    texts["reloaded"] = page.evaluate(TEXTS)
    said = [output["text"][0] for output in outputs.values() if "text" in output]
    return Seen(
        {str(node["id"]): node["size"] for node in graph["nodes"]},
        sizes,
        [" ".join(line.split()) for text in said for line in text.splitlines()],
        texts,
    )


def test_nodes_do_not_outgrow_the_room_that_the_template_gives_them(seen: Seen):
    grown = {
        name: (seen.saved[name], size)
        for name, size in seen.sizes.items()
        if any(now > room + 1 for now, room in zip(size, seen.saved[name], strict=True))
    }
    assert not grown


@pytest.mark.parametrize("when", ["run", "queued again", "reloaded"])
def test_every_line_that_a_node_says_can_be_read(seen: Seen, when: str):
    assert seen.lines
    assert not [line for line in seen.lines if line not in seen.texts[when]]


def run(page: Any, address: str) -> dict[str, dict[str, Any]]:
    """Press Run and wait; what ComfyUI keeps of it, by node."""
    before = set(history(address))
    page.evaluate("app.queuePrompt(0)")
    (name,) = wait_for(lambda: set(history(address)) - before)
    page.wait_for_timeout(SETTLE)
    done = history(address)[name]
    assert done["status"]["status_str"] == "success", done["status"]
    return done["outputs"]


def history(address: str) -> dict[str, Any]:
    return json.loads(ask(address, "/history"))


def ask(address: str, path: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.read()


def wait_for(attempt: Callable[[], Any]) -> Any:
    """What `attempt` returns as soon as it is true and the server answers."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            if answer := attempt():
                return answer
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.3)
    pytest.fail(f"nothing happened within {SECONDS} seconds")
