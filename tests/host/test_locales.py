"""Texts and workflow files against the schemas of the nodes that ComfyUI has loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from controlnet_pp.tools import schemas as of_schemas
from controlnet_pp.tools import texts

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "zh")
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
API = sorted((ROOT / "workflows" / "api").glob("*.json"))


def definitions(language: str) -> dict[str, Any]:
    file = ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schemas(host) -> dict[str, Any]:
    ours = {key: node for key, node in host.registry.items() if key.startswith("CNPP_")}
    assert ours
    return {key: node.define_schema() for key, node in ours.items()}


def test_what_repeats_the_schemas_is_what_they_say(host):
    nodes = host.pack("nodes").NODES
    said = texts.written(of_schemas.english(nodes), of_schemas.pins(nodes))
    old = [file.name for file, text in said.items() if file.read_text(encoding="utf-8") != text]
    assert not old, f"run nox -s texts, which writes {', '.join(old)}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_input_and_output_is_translated(schemas, language):
    written = definitions(language)
    assert set(written) == set(schemas)
    for key, schema in schemas.items():
        entry = written[key]
        assert list(entry["inputs"]) == [given.id for given in schema.inputs], key
        assert list(entry["outputs"]) == [str(slot) for slot in range(len(schema.outputs))], key
        parts = [entry, *entry["inputs"].values(), *entry["outputs"].values()]
        assert all(text for part in parts for text in part.values() if isinstance(text, str)), key
        tips = [part["tooltip"] for part in parts[1:]]
        assert all(tips), f"{key}: a tooltip is empty"


def test_comfyui_serves_the_translations(tmp_path, monkeypatch, comfy_root):
    import folder_paths
    from app.custom_node_manager import CustomNodeManager

    (tmp_path / "ControlNetPlusPlus").symlink_to(ROOT, target_is_directory=True)
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "custom_nodes", ([str(tmp_path)], set())
    )
    served = CustomNodeManager().build_translations()
    for language in LANGUAGES:
        assert served[language]["nodeDefs"] == definitions(language)


def socket_and_widget_names(schema: Any) -> tuple[list[str], list[Any]]:
    """Inputs that the web page draws as sockets, and inputs that it draws as widgets."""
    from comfy_api.latest import io

    widgets = [given for given in schema.inputs if isinstance(given, io.WidgetInput)]
    sockets = [given.id for given in schema.inputs if given not in widgets]
    return sockets, widgets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_fit_the_schemas(schemas, path):
    seen = 0
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] not in schemas:
            assert not node["type"].startswith("CNPP_"), f"{node['type']} does not exist"
            continue
        seen += 1
        schema = schemas[node["type"]]
        sockets, widgets = socket_and_widget_names(schema)
        drawn = [given["name"] for given in node.get("inputs", []) if "widget" not in given]
        assert drawn == sockets, node["type"]
        assert [out["name"] for out in node["outputs"]] == [
            out.display_name or out.id for out in schema.outputs
        ], node["type"]
        assert [out["type"] for out in node["outputs"]] == [
            out.io_type for out in schema.outputs
        ], node["type"]
        values = node.get("widgets_values", [])
        values = without_seed_controls(values, widgets)
        assert len(values) == len(widgets), node["type"]
        for widget, value in zip(widgets, values, strict=True):
            check_value(f"{node['type']}.{widget.id}", widget, value)
    assert seen


def without_seed_controls(values: list[Any], widgets: list[Any]) -> list[Any]:
    """The values without those of 'control after generate', which the page draws behind a seed."""
    rest, kept = list(values), []
    for widget in widgets:
        kept += rest[:1]
        rest = rest[1:]
        if getattr(widget, "control_after_generate", None):
            assert rest[0] in ("fixed", "increment", "decrement", "randomize"), widget.id
            rest = rest[1:]
    return kept + rest


def check_value(name: str, widget: Any, value: Any) -> None:
    """The value may be chosen or typed into this widget."""
    if widget.io_type == "COMBO":
        files = widget.id.endswith("_name")  # a file that the user has yet to download
        assert files or value in widget.options, f"{name}: {value!r} is no choice"
    elif widget.io_type in ("INT", "FLOAT"):
        assert isinstance(value, int if widget.io_type == "INT" else int | float), name
        assert widget.min <= value <= widget.max, f"{name}: {value} is out of range"
    elif widget.io_type == "BOOLEAN":
        assert isinstance(value, bool), name
    else:
        assert isinstance(value, str), name


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_graphs_to_post_fit_the_schemas(schemas, path):
    for node in json.loads(path.read_text(encoding="utf-8")).values():
        if node["class_type"] in schemas:
            schema = schemas[node["class_type"]]
            known = {given.id: given for given in schema.inputs}
            required = {key for key, given in known.items() if not given.optional}
            assert set(node["inputs"]) <= set(known), node["class_type"]
            assert required <= set(node["inputs"]), node["class_type"]
            _, widgets = socket_and_widget_names(schema)
            for widget in widgets:
                value = node["inputs"].get(widget.id)
                if value is not None and not isinstance(value, list):
                    check_value(f"{node['class_type']}.{widget.id}", widget, value)
