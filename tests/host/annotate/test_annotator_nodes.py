"""Every annotator node in the real host: keypoints, segmentation, Annotate (any), second runs."""

from __future__ import annotations

import shutil
import sys
from threading import Event

import pytest
import torch
from controlnet_pp.tests.host.annotate.annotated import put, soft_edge
from controlnet_pp.tests.host.graphs import node
from controlnet_pp.tests.host.harness import picture


def segment(host, image, **options):
    options = {"model_name": "tiny_upernet", "resolution": 0} | options
    return host.call("CNPP_Segmentation", image=image, **options)


def test_segmentation_gives_classes_beside_colours(host, models, upernet):
    shutil.copytree(upernet, models / "tiny_upernet")
    inputs = host.registry["CNPP_Segmentation"].define_schema().inputs
    (choice,) = (given for given in inputs if given.id == "model_name")
    assert choice.options == ["oneformer_ade20k_swin_tiny", "tiny_upernet"]
    colours, annotator, classes = segment(host, picture(batch=2, height=50, width=70))
    assert colours.shape == (2, 50, 70, 3)
    rows = (classes * 255).round().long()
    torch.testing.assert_close(rows / 255, classes, rtol=0, atol=1e-6)
    assert len(rows.unique()) > 3
    assert rows.min() >= 1
    assert rows.max() <= 150
    to_colours = host.pack("annotators.ade20k").to_colours
    torch.testing.assert_close(to_colours(rows - 1).movedim(1, -1), colours)
    assert annotator.condition == "seg"


def test_a_second_segmentation_does_not_touch_the_disk(host, models, upernet):
    folder = shutil.copytree(upernet, models / "tiny_upernet")
    first, _, _ = segment(host, picture(height=32, width=32))
    shutil.rmtree(folder)
    again, _, _ = segment(host, picture(height=32, width=32))
    assert torch.equal(first, again)


def test_a_segmentation_model_that_is_gone_is_named(host, models):
    with pytest.raises(ValueError, match="'tiny_upernet' is not in models/annotators"):
        segment(host, picture(height=32, width=32))


# Condition -> node and options that have to give the same as Annotate (any).
SAME = {
    "canny": ("CNPP_Canny", {"mode": "ControlNet++", "low": 100, "high": 200}),
    "softedge": ("CNPP_SoftEdge", {"safe": False}),
    "lineart": ("CNPP_LineArt", {"style": "fine"}),
    "mlsd": ("CNPP_MLSD", {"score": 0.1, "distance": 0.1}),
    "scribble": ("CNPP_Scribble", {"method": "HED", "threshold": 32}),
    "pose": ("CNPP_OpenPose", {"body": True, "hands": False, "sticks": "standard"}),
    "depth": ("CNPP_Depth", {}),
    "normal": ("CNPP_Normal", {"source": "picture", "background": 0.4, "strength": 1.0}),
    "seg": ("CNPP_Segmentation", {"model_name": "oneformer_ade20k_swin_tiny"}),
}


@pytest.mark.parametrize("condition", SAME)
def test_annotate_any_gives_what_the_node_of_the_condition_gives(
    host, models, weight_files, upernet, condition
):
    for file in weight_files.values():
        (models / file.name).symlink_to(file)
    named = host.pack("annotators.weights").WEIGHTS["oneformer_ade20k"]
    folder = shutil.copytree(upernet, models / named.name)
    for file in named.files:  # those that this stand-in for OneFormer lacks
        (folder / file.name).touch()
    (folder / "preprocessor_config.json").write_text("{}", encoding="utf-8")
    image = picture(height=40, width=56)
    found, annotator = host.call("CNPP_Annotate", image=image, condition=condition, resolution=32)
    node, options = SAME[condition]
    expected, *_ = host.call(node, image=image, resolution=32, **options)
    assert torch.equal(found, expected)
    assert annotator.condition == condition
    assert condition.upper() in host.pack("cnpp_core.condition").Condition.__members__


def test_annotate_any_knows_every_condition(host):
    known = [kind.key for kind in host.pack("cnpp_core.condition").Condition]
    assert known == [*SAME, "tile"]  # which has no node of its own
    (choice,) = (
        given
        for given in host.registry["CNPP_Annotate"].define_schema().inputs
        if given.id == "condition"
    )
    more = ["canny (cv2)", "lineart (coarse)", "scribble (XDoG)", "scribble (drawing)"]
    more += ["pose (hands)", "normal (depth map)", "tile (blur)"]
    assert list(choice.options) == [*known, *more]


def test_annotate_any_makes_tiles(host):
    image = picture(height=48, width=64)
    tile = host.pack("annotators.tile")
    for choice, find in (("tile", tile.tile_resample), ("tile (blur)", tile.tile_blur)):
        found, annotator = host.call(
            "CNPP_Annotate", image=image, condition=choice, resolution=0, download=False
        )
        assert torch.equal(found.movedim(-1, 1), find(image.movedim(-1, 1)))
        score, *_ = host.call(
            "CNPP_CycleConsistencyCheck",
            images=image,
            condition=found,
            kind="tile (resample)",
            tolerance=0,
            annotator=annotator,
        )
        assert score == 0.0


# Node, its own options, the weights that it needs.
LEARNED = [
    ("CNPP_SoftEdge", {"safe": False}, "hed"),
    ("CNPP_LineArt", {"style": "fine"}, "lineart"),
    ("CNPP_LineArt", {"style": "coarse"}, "lineart_coarse"),
    ("CNPP_MLSD", {"score": 0.1, "distance": 0.1}, "mlsd"),
    ("CNPP_Scribble", {"method": "HED", "threshold": 32}, "hed"),
    ("CNPP_Depth", {}, "dpt_hybrid"),
    ("CNPP_Normal", {"source": "picture", "background": 0.4, "strength": 1.0}, "dpt_hybrid"),
]
FREE = [
    ("CNPP_Normal", {"source": "depth map", "background": 0.1, "strength": 100.0}, None),
    ("CNPP_Canny", {"mode": "cv2", "low": 100, "high": 200}, None),
    ("CNPP_Scribble", {"method": "XDoG", "threshold": 32}, None),
    ("CNPP_Scribble", {"method": "drawing", "threshold": 32}, None),
]


@pytest.mark.parametrize(("node", "options", "key"), LEARNED + FREE)
def test_every_node_keeps_the_aspect_and_gives_its_annotator(
    host, models, weight_files, node, options, key
):
    if key:
        put(weight_files[key], models)
    image = picture(batch=2, height=61, width=83)
    found, annotator, *_ = host.call(node, image=image, resolution=48, **options)
    assert found.shape == (2, 48, 65, 3)
    assert found.min() >= 0
    assert found.max() <= 1
    again = annotator(image.movedim(-1, 1)).movedim(1, -1)
    assert torch.equal(again.expand_as(found), found)


OPENED: list[tuple[str, object]] = []  # what Python opened or listed while WATCHING was set
WATCHING = Event()


@pytest.fixture(scope="module")
def watch() -> Event:
    """Set, it makes OPENED grow by every file or folder that Python opens."""

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if WATCHING.is_set() and event in ("open", "os.listdir", "os.scandir"):
            OPENED.append((event, arguments[0]))

    sys.addaudithook(note)  # for good: hooks can't be removed
    return WATCHING


POSE = ("CNPP_OpenPose", {"body": True, "hands": False, "sticks": "standard"}, "openpose_body")


@pytest.mark.parametrize(("node", "options", "key"), [*LEARNED, POSE, *FREE])
def test_a_second_run_of_a_node_opens_no_file(
    host, models, weight_files, watch, node, options, key
):
    file = put(weight_files[key], models) if key else None
    image = picture(height=32, width=32)
    first, *_ = host.call(node, image=image, resolution=0, **options)
    if file:
        file.unlink()
    OPENED.clear()
    watch.set()
    try:
        again, *_ = host.call(node, image=image, resolution=0, **options)
    finally:
        watch.clear()
    assert OPENED == []
    assert torch.equal(first, again)


def test_a_first_run_of_a_node_opens_its_weights(host, models, weight_files, watch):
    """So the test above would see it."""
    put(weight_files["hed"], models)
    OPENED.clear()
    watch.set()
    try:
        soft_edge(host, picture(height=32, width=32))
    finally:
        watch.clear()
    assert OPENED


@pytest.mark.parametrize(("node", "options", "key"), LEARNED + FREE)
def test_a_picture_in_half_precision_gives_the_same(host, models, weight_files, node, options, key):
    """ComfyUI may keep pictures so between nodes."""
    if key:
        put(weight_files[key], models)
    half = picture(height=48, width=48).half()
    found, *_ = host.call(node, image=half, resolution=0, **options)
    expected, *_ = host.call(node, image=half.float(), resolution=0, **options)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, expected.half(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("node", "options", "key"), LEARNED)
def test_every_network_lets_gradients_through_to_the_picture(
    host, models, weight_files, node, options, key
):
    put(weight_files[key], models)
    _, annotator, *_ = host.call(node, image=picture(height=48, width=48), resolution=0, **options)
    with torch.inference_mode(False), torch.enable_grad():
        image = torch.rand(1, 3, 48, 48, requires_grad=True)
        annotator.soft(image).square().sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_a_graph_with_an_annotator_runs_in_the_executor(host, models, weight_files):
    from PIL import Image

    put(weight_files["hed"], models)
    Image.new("RGB", (64, 48), "red").save(host.folder / "input" / "red.png")
    graph = {
        "1": node("LoadImage", image="red.png"),
        "2": node("CNPP_SoftEdge", image=["1", 0], safe=False, resolution=0),
        "3": node("PreviewImage", images=["2", 0]),
    }
    assert len(host.run(graph)["3"]["images"]) == 1
