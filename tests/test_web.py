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
class Element {
    style = {};
    textContent = "";
    offsetHeight = 48;
    append(child) { this.firstChild = child; }
    remove() { this.gone = true; }
}
globalThis.document = { createElement: () => new Element() };
globalThis.ResizeObserver = class {
    constructor(resized) { globalThis.resized = resized; }
    observe() {}
};
await import("./extensions/pack/js/show_text.js");

class Node {
    widgets = [{ name: "tolerance", value: 1 }];
    calls = 0;
    drawn = 0;
    setDirtyCanvas() { this.drawn += 1; }
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
const shown = (node) =>
    node.widgets.map((w) => [w.name, w.element ? w.element.firstChild.textContent : w.value]);

const seen = {};
const node = new Node();
node.onExecuted({ text: ["F1: 50%\\npicture 1"] });
node.onExecuted({ text: ["F1: 60%\\npicture 1"] });
seen.reloaded = shown(node);
seen.type = node.widgets[1].type;
seen.serialised = node.widgets[1].serialize;
seen.calls = node.calls;

const { getMinHeight, getMaxHeight } = node.widgets[1].options;
seen.heights = [getMinHeight(), getMaxHeight()];
const before = node.drawn;
globalThis.resized();
seen.drawn_again = node.drawn - before;

node.widgets.push({ name: "$$node-text-preview", value: "F1: 99%" });  // of a later run
node.onExecuted({ text: ["F1: 70%\\npicture 1"] });
seen.classic = shown(node);
const emptied = new Node();
emptied.onExecuted({ text: ["remark"] });
emptied.onExecuted({ text: [""] });
seen.emptied = [shown(emptied)];

globalThis.LiteGraph = { vueNodesMode: true };
node.widgets.push({ name: "$$node-text-preview", value: "F1: 99%" });
node.onExecuted({ text: ["F1: 80%\\npicture 1"] });
seen.vue = shown(node);

node.onExecuted({ text: [""] });
seen.emptied.push(shown(node));

const silent = new Node();
silent.onExecuted({ images: [] });
seen.silent = silent.widgets.length;
const foreign = new Foreign();
foreign.onExecuted({ text: ["hello"] });
seen.foreign = foreign.widgets.length;
console.log(JSON.stringify(seen));
"""
# What Nodes 2.0 (frontend 1.45) draws itself, from a widget's value and not from its element.
DRAWN_BY_THE_PAGE = {
    *("string", "text", "number", "int", "float", "slider", "gradientslider", "boolean", "toggle"),
    *("combo", "asset", "color", "button", "textarea", "multiline", "customtext", "markdown"),
    *("progresstext", "chart", "galleria", "curve", "range", "legacy", "hidden"),
}


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


def test_the_widget_is_of_a_type_whose_element_is_shown_in_nodes_2(seen):
    assert seen["type"].lower() not in DRAWN_BY_THE_PAGE


def test_it_takes_the_height_of_its_text_as_soon_as_that_is_laid_out(seen):
    assert seen["heights"] == [48 + 20, 48 + 20]
    assert seen["drawn_again"] == 1


def test_the_classic_page_shows_the_whole_text_in_place_of_its_own(seen):
    assert seen["classic"] == [["tolerance", 1], ["cnpp_text", "F1: 70%\npicture 1"]]


def test_nodes_2_shows_the_new_text_where_it_showed_that_of_an_earlier_run(seen):
    assert seen["vue"] == [["tolerance", 1], ["$$node-text-preview", "F1: 80%\n\n- picture 1"]]


def test_an_empty_text_takes_the_earlier_one_away(seen):
    assert seen["emptied"] == [[["tolerance", 1]]] * 2


def test_what_the_node_did_before_still_happens(seen):
    assert seen["calls"] == 2


def test_nodes_without_text_and_nodes_of_others_are_left_alone(seen):
    assert (seen["silent"], seen["foreign"]) == (1, 1)
