"""The page's script, run by Node.js with stand-ins for ComfyUI's page and its nodes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NODE = shutil.which("node")

PAGE = """
export const app = { registerExtension(extension) { globalThis.extension = extension; } };
"""
SCENE = """
globalThis.document = {
    createElement: () => ({ style: {}, textContent: "", remove() { this.gone = true; } }),
};
await import("./extensions/pack/js/show_text.js");

class Node {
    widgets = [{ name: "tolerance", value: 1 }];
    calls = 0;
    size = [300, 100];
    computeSize() { return [200, 60 * this.widgets.length]; }
    setSize(size) { this.size = size; }
    addDOMWidget(name, type, element, options) {
        const widget = { name, type, element, options };
        this.widgets.push(widget);
        return widget;
    }
}
Node.prototype.onExecuted = function () { this.calls += 1; };
class Foreign extends Node {}
Foreign.prototype.onExecuted = Node.prototype.onExecuted;
globalThis.extension.beforeRegisterNodeDef(Node, { name: "CNPP_CycleConsistencyCheck" });
globalThis.extension.beforeRegisterNodeDef(Foreign, { name: "SomebodyElses" });

const seen = {};
const node = new Node();
node.onExecuted({ text: ["F1: 50%\\npicture 1"] });
node.onExecuted({ text: ["F1: 60%\\npicture 1"] });
seen.reloaded = node.widgets.map((w) => [w.name, w.element?.textContent ?? w.value]);
seen.serialised = node.widgets[1].serialize;
seen.calls = node.calls;
seen.size = node.size;

node.widgets.push({ name: "$$node-text-preview", value: "F1: 99%" });  // of a later run
node.onExecuted({ text: ["F1: 70%\\npicture 1"] });
seen.running = node.widgets.map((w) => [w.name, w.value]);

const silent = new Node();
silent.onExecuted({ images: [] });
seen.silent = silent.widgets.length;
const foreign = new Foreign();
foreign.onExecuted({ text: ["hello"] });
seen.foreign = foreign.widgets.length;
console.log(JSON.stringify(seen));
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict:
    if NODE is None:
        pytest.skip("no Node.js")
    folder = tmp_path_factory.mktemp("page")
    (folder / "extensions" / "pack").mkdir(parents=True)
    shutil.copytree(ROOT / "web" / "js", folder / "extensions" / "pack" / "js")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "app.js").write_text(PAGE)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "scene.js").write_text(SCENE)
    command = [NODE, "scene.js"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_cached_result_shows_its_text_in_one_widget_that_is_not_saved(seen):
    assert seen["reloaded"] == [["tolerance", 1], ["cnpp_text", "F1: 60%\npicture 1"]]
    assert seen["serialised"] is False


def test_the_node_grows_to_hold_the_text(seen):
    assert seen["size"] == [300, 120]


def test_where_the_page_shows_the_text_of_an_earlier_run_it_is_replaced(seen):
    assert seen["running"] == [
        ["tolerance", 1],
        ["$$node-text-preview", "F1: 70%\n\n- picture 1"],
    ]


def test_what_the_node_did_before_still_happens(seen):
    assert seen["calls"] == 2


def test_nodes_without_text_and_nodes_of_others_are_left_alone(seen):
    assert (seen["silent"], seen["foreign"]) == (1, 1)
