"""The workflow files that ComfyUI offers as templates, checked without ComfyUI."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.json"))
API = sorted((FOLDER / "api").glob("*.json"))
PINS = json.loads((ROOT / "tests" / "node_pins.json").read_text(encoding="utf-8"))

# What ComfyUI's own nodes show as widgets, control_after_generate and upload buttons included.
WIDGETS = {
    "CheckpointLoaderSimple": ["ckpt_name"],
    "CLIPTextEncode": ["text"],
    "EmptyLatentImage": ["width", "height", "batch_size"],
    "ImageScale": ["upscale_method", "width", "height", "crop"],
    "KSampler": [
        "seed",
        "control_after_generate",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "denoise",
    ],
    "MarkdownNote": ["text"],
    "MaskComposite": ["x", "y", "operation"],
    "MaskPreview": [],
    "Note": ["text"],
    "PreviewAny": ["preview_markdown", "preview_text", "previewMode"],
    "PreviewImage": [],
    "SaveImage": ["filename_prefix"],
    "SolidMask": ["value", "width", "height"],
    "VAEDecode": [],
    "VAEEncode": [],
}
# Heights that Nodes 2.0 gives the nodes after Run at the least, at the widths they have here
# (frontend 1.45; the classic page needs less). `nox -s browser` measures them in a browser. With a
# number of pictures, for batches of that many.
HEIGHTS_AFTER_RUN: dict[str | tuple[str, int], int] = {
    "CheckpointLoaderSimple": 156,
    "CLIPTextEncode": 116,
    "CNPP_Annotate": 288,
    "CNPP_Apply": 288,
    "CNPP_BlockMasks": 220,
    "CNPP_BlockScalePreset": 136,
    "CNPP_Canny": 288,
    "CNPP_ConsistencyFeedback": 512,
    "CNPP_ConsistencyFeedbackPlot": 484,
    "CNPP_ConsistencyGuidance": 388,
    "CNPP_ConsistencySearch": 1458,
    "CNPP_ControlNetTrainingData": 900,
    "CNPP_ControlSpeed": 280,
    ("CNPP_CycleConsistencyCheck", 1): 550,
    ("CNPP_CycleConsistencyCheck", 4): 970,
    "CNPP_DemoModel": 248,
    "CNPP_Depth": 220,
    "CNPP_InitialiseControlNet": 300,
    "CNPP_LoadControlNet": 188,
    "CNPP_ResidualEnergy": 96,
    "CNPP_ResidualEnergyPlot": 607,
    "CNPP_RewardFineTune": 1600,
    "CNPP_ScaleSchedule": 196,
    "CNPP_TrainControlNet": 1500,
    "CNPP_UnionControlType": 160,
    "EmptyLatentImage": 144,
    "ImageScale": 176,
    "KSampler": 312,
    "MaskComposite": 168,
    "MaskPreview": 280,
    "PreviewImage": 280,
    ("SaveImage", 1): 316,
    ("SaveImage", 4): 404,
    "SolidMask": 144,
    "VAEDecode": 72,
}
TITLE_HEIGHT = 30  # litegraph draws a node's title above its position


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def nodes_of(graph: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {node["id"]: node for node in graph["nodes"]}


def name(path: Path) -> str:
    return path.stem


@pytest.fixture(params=WORKFLOWS, ids=name)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def graph(path: Path) -> dict[str, Any]:
    return load(path)


def test_there_is_a_workflow_that_needs_no_download_and_one_for_sd15():
    assert {"quickstart_demo", "controlnetpp_canny_sd15"} <= {p.stem for p in WORKFLOWS}


def test_it_is_in_the_format_of_the_web_page(graph):
    assert graph["version"] == 0.4
    assert {"last_node_id", "last_link_id", "nodes", "links", "groups"} <= set(graph)


def test_ids_are_used_once_and_below_the_counters(graph):
    nodes = [node["id"] for node in graph["nodes"]]
    links = [link[0] for link in graph["links"]]
    assert len(set(nodes)) == len(nodes)
    assert len(set(links)) == len(links)
    assert max(nodes) <= graph["last_node_id"]
    assert max(links) <= graph["last_link_id"]


def test_every_link_joins_an_output_to_an_input_of_its_type(graph):
    nodes = nodes_of(graph)
    for link, source, output, target, given, kind in graph["links"]:
        out, into = nodes[source]["outputs"][output], nodes[target]["inputs"][given]
        assert link in out["links"], f"link {link} is missing at its output {out['name']}"
        assert into["link"] == link, f"link {link} is missing at its input {into['name']}"
        assert kind == out["type"]
        assert into["type"] in (kind, "*")


def test_every_link_that_a_node_names_exists(graph):
    links = {link[0]: link for link in graph["links"]}
    for node in graph["nodes"]:
        for slot, given in enumerate(node.get("inputs", [])):
            if given["link"] is not None:
                assert links[given["link"]][3:5] == [node["id"], slot]
        for slot, out in enumerate(node.get("outputs", [])):
            for link in out["links"] or []:
                assert links[link][1:3] == [node["id"], slot]


def test_nodes_run_after_those_they_depend_on(graph):
    nodes = nodes_of(graph)
    assert all(nodes[a]["order"] < nodes[b]["order"] for _, a, _, b, _, _ in graph["links"])


def test_widgets_of_comfyuis_nodes_have_their_values(graph):
    for node in graph["nodes"]:
        if node["type"].startswith("CNPP_"):
            continue  # tests/host/test_locales.py compares these with their schema
        assert node["type"] in WIDGETS, f"{node['type']}: list its widgets in this test"
        values = node.get("widgets_values", [])
        wanted = WIDGETS[node["type"]]
        assert len(values) == len(wanted), f"{node['type']}: {values} for {wanted}"


def test_nodes_of_the_pack_have_the_pinned_inputs_and_outputs(graph):
    for node in graph["nodes"]:
        if node["type"].startswith("CNPP_"):
            pins = PINS[node["type"]]
            assert [out["type"] for out in node["outputs"]] == pins["outputs"], node["type"]
            drawn = [given["name"] for given in node.get("inputs", [])]
            assert drawn == [name for name in pins["inputs"] if name in drawn], node["type"]


@pytest.mark.parametrize("file", API, ids=name)
def test_graphs_to_post_name_pinned_inputs_and_outputs(file: Path):
    prompt = load(file)
    for node in prompt.values():
        if node["class_type"] in PINS:
            assert set(node["inputs"]) <= set(PINS[node["class_type"]]["inputs"])
        else:
            assert not node["class_type"].startswith("CNPP_"), node["class_type"]
        for given in node["inputs"].values():
            source = prompt[given[0]]["class_type"] if isinstance(given, list) else ""
            assert source not in PINS or given[1] < len(PINS[source]["outputs"]), source


def test_nodes_say_which_pack_they_come_from(graph):
    for node in graph["nodes"]:
        if node["type"] in ("Note", "MarkdownNote"):
            continue
        pack = "controlnet-plus-plus" if node["type"].startswith("CNPP_") else "comfy-core"
        assert node["properties"]["cnr_id"] == pack, node["type"]
        assert node["properties"]["Node name for S&R"] == node["type"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])


def test_models_can_be_downloaded(graph):
    for node in graph["nodes"]:
        for model in node["properties"].get("models", []):
            assert set(model) == {"name", "url", "directory"}
            assert re.fullmatch(
                r"https://huggingface\.co/[^?\s]+/resolve/main/[^?\s]+", model["url"]
            )
            assert model["url"].rsplit("/", 1)[1] == model["name"]
            assert model["name"] in node["widgets_values"]


def test_loaders_of_files_name_where_to_get_them(graph):
    for node in graph["nodes"]:
        if node["type"] in ("CheckpointLoaderSimple", "CNPP_LoadControlNet"):
            assert node["properties"]["models"]


def test_it_needs_no_picture_that_a_fresh_comfyui_lacks(graph):
    """example.png lies in ComfyUI's own folder, and not in one named by --base-directory."""
    types = {node["type"] for node in graph["nodes"]}
    assert not {name for name in types if re.match(r"(VHS_)?Load(Image|Video|Audio|Latent)", name)}


def test_it_explains_itself(graph):
    notes = [n for n in graph["nodes"] if n["type"] in ("Note", "MarkdownNote")]
    assert any(len(note["widgets_values"][0]) > 200 for note in notes)


def test_the_result_is_saved_and_checked(graph):
    types = {node["type"] for node in graph["nodes"]}
    assert types & {"SaveImage", "PreviewImage"}
    assert "CNPP_CycleConsistencyCheck" in types


def test_nodes_have_the_room_that_they_take_after_a_run(graph):
    (pictures,) = {
        n["widgets_values"][2] for n in graph["nodes"] if n["type"] == "EmptyLatentImage"
    }
    for node in graph["nodes"]:
        name, height = node["type"], node["size"][1]
        if name not in ("MarkdownNote", "Note"):
            needed = HEIGHTS_AFTER_RUN.get((name, pictures)) or HEIGHTS_AFTER_RUN[name]
            assert height >= needed, f"{name} grows to {needed} and is {height} high"


def test_nodes_do_not_overlap(graph):
    boxes = {}
    for node in graph["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        boxes[f"{node['id']} {node['type']}"] = (x, y - TITLE_HEIGHT, x + width, y + height)
    overlaps = [
        f"{a} and {b}" for (a, p), (b, q) in combinations(boxes.items(), 2) if intersect(p, q)
    ]
    assert not overlaps


def test_every_node_lies_inside_one_group_or_outside_all(graph):
    for node in graph["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        box = (x, y - TITLE_HEIGHT, x + width, y + height)
        for group in graph["groups"]:
            gx, gy, gw, gh = group["bounding"]
            frame = (gx, gy, gx + gw, gy + gh)
            inside = gx <= box[0] and gy <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
            cut = f"{node['type']} sticks out of '{group['title']}'"
            assert inside or not intersect(box, frame), cut


def test_groups_do_not_overlap(graph):
    frames = [(x, y, x + w, y + h) for x, y, w, h in (g["bounding"] for g in graph["groups"])]
    assert not any(intersect(a, b) for a, b in combinations(frames, 2))


def test_it_names_no_path_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.:/])/(root|home|tmp|work|Users|mnt)/|[A-Z]:\\\\", text)


def test_a_thumbnail_lies_beside_it(path):
    from PIL import Image

    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
        assert min(picture.size) >= 256
    assert path.with_suffix(".jpg").stat().st_size < 200_000


def test_no_thumbnail_is_left_without_its_workflow():
    assert {p.stem for p in FOLDER.glob("*.jpg")} == {p.stem for p in WORKFLOWS}


@pytest.mark.parametrize("file", API, ids=name)
def test_links_of_the_graphs_to_post_lead_to_nodes(file: Path):
    prompt = load(file)
    for node in prompt.values():
        assert isinstance(node["class_type"], str)
        for given in node["inputs"].values():
            if isinstance(given, list):
                source, output = given
                assert source in prompt
                assert isinstance(output, int)


@pytest.mark.parametrize("file", API, ids=name)
def test_a_graph_to_post_is_the_graph_of_the_web_page(file: Path):
    """Same nodes, same links by type and input name; Notes and unused previews aside."""
    shown = load(FOLDER / file.name)
    posted = load(file)
    nodes = nodes_of(shown)
    drawn = {
        (nodes[a]["type"], output, nodes[b]["type"], nodes[b]["inputs"][slot]["name"])
        for _, a, output, b, slot, _ in shown["links"]
    }
    sent = {
        (posted[given[0]]["class_type"], given[1], node["class_type"], key)
        for node in posted.values()
        for key, given in node["inputs"].items()
        if isinstance(given, list)
    }
    assert sent <= drawn
    assert all("Preview" in target for _, _, target, _ in drawn - sent)


def intersect(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
