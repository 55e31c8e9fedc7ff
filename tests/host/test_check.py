"""The Cycle-Consistency Check as a node: kinds, annotators, and its text on cached runs."""

from __future__ import annotations

import asyncio

import pytest
import torch
from controlnet_pp.tests.host.graphs import node
from PIL import Image

NODE = "CNPP_CycleConsistencyCheck"
KINDS = (
    "canny (ControlNet++)",
    "canny (cv2)",
    *("softedge", "lineart", "mlsd", "scribble", "pose", "depth", "normal", "seg"),
)


def picture(size: int = 192, seed: int = 0, batch: int = 1) -> torch.Tensor:
    """A smooth IMAGE (batch, size, size, 3) with clear borders."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 5, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size, size)).movedim(1, -1).contiguous()


def annotator(host, condition: str, maps: torch.Tensor):
    """An ANNOTATOR as other nodes give it, that finds these maps (B, c, H, W)."""
    return host.annotator(
        condition, lambda image: maps[: len(image)].expand(len(image), -1, -1, -1)
    )


def check(host, images, condition, kind, tolerance=0, **options) -> tuple:
    return host.call(
        NODE, images=images, condition=condition, kind=kind, tolerance=tolerance, **options
    )


def as_image(maps: torch.Tensor) -> torch.Tensor:
    return maps.expand(-1, 3, -1, -1).movedim(1, -1)


@pytest.mark.parametrize("mode", ["ControlNet++", "cv2"])
def test_canny_needs_no_annotator_and_takes_the_one_of_the_canny_node(host, mode):
    image = picture()
    edges, own = host.call("CNPP_Canny", image=image, mode=mode, low=20, high=40, resolution=0)
    kind = f"canny ({mode})"
    alone = check(host, image, edges, kind)
    joined = check(host, image, edges, kind, annotator=own)
    assert joined[0] == 1 >= alone[0] > 0
    assert torch.equal(joined[1], edges)


def test_scribble_is_found_again_by_xdog_without_an_annotator(host):
    image = picture()
    strokes, own = host.call(
        "CNPP_Scribble", image=image, method="XDoG", threshold=32, resolution=0
    )
    assert strokes.mean() > 0
    assert check(host, image, strokes, "scribble")[0] == 1
    assert check(host, image, strokes, "scribble", annotator=own)[0] == 1


def test_normal_from_a_depth_map_goes_through_the_whole_graph(host):
    depth = picture(seed=3).mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    found, own = host.call(
        "CNPP_Normal",
        image=depth,
        source="depth map",
        background=0.0,
        strength=5.0,
        resolution=0,
    )
    score, recovered, difference, report = check(host, depth, found, "normal", annotator=own)
    assert score < 0.5
    assert torch.equal(recovered, found)
    assert difference.max() < 0.1
    assert report.startswith("Mean angle (degrees)")


@pytest.mark.parametrize("kind", ["softedge", "lineart", "depth", "seg"])
def test_other_kinds_are_scored_with_the_connected_annotator(host, kind):
    soft = picture(seed=1).movedim(-1, 1)[:, :1]
    maps = {
        "softedge": (soft > 0.8).float() * 0.7,
        "lineart": (soft > 0.8).float() * 0.7,
        "depth": soft,
        "seg": host.pack("annotators.ade20k").to_colours((soft[:, 0] * 4).long() + 7),
    }[kind]
    score, recovered, _, report = check(
        host, picture(batch=2), as_image(maps), kind, annotator=annotator(host, kind, maps)
    )
    assert score == pytest.approx(0 if kind == "depth" else 1, abs=1e-3)
    assert recovered.shape == (2, 192, 192, 3)
    assert "picture 2:" in report


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith(("canny", "scribble"))])
def test_a_kind_that_needs_a_network_asks_for_the_annotator_by_its_node(host, kind):
    with pytest.raises(ValueError, match=rf"kind is {kind}.*Connect the output annotator of"):
        check(host, picture(), picture(), kind)


def test_an_annotator_of_another_kind_is_refused_with_both_named(host):
    other = annotator(host, "depth", torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"kind is canny \(cv2\).*finds depth.*Set kind to depth"):
        check(host, picture(), picture(), "canny (cv2)", annotator=other)


def test_the_mask_of_the_host_with_two_or_three_axes_is_taken(host):
    image = picture()
    edges, _ = host.call(
        "CNPP_Canny", image=image, mode="ControlNet++", low=100, high=200, resolution=0
    )
    mask = torch.ones(192, 192)
    for shape in (mask, mask[None]):
        assert check(host, image, edges, KINDS[0], mask=shape)[0] == 1


def test_saved_workflows_keep_their_kind(host):
    kind, more = host.registry[NODE].INPUT_TYPES()["required"]["kind"]
    options = tuple(kind if isinstance(kind, list) else more["options"])
    assert options[: len(KINDS)] == KINDS  # new kinds come behind


def test_the_text_comes_again_when_the_result_is_cached(host):
    """ComfyUI sends the cached result to the page, whose script shows it (web/js)."""
    import execution

    Image.new("RGB", (64, 64), "navy").save(host.folder / "input" / "check.png")
    graph = {
        "1": node("LoadImage", image="check.png"),
        "2": node(NODE, images=["1", 0], condition=["3", 0], kind=KINDS[0], tolerance=0),
        "3": node(
            "CNPP_Canny", image=["1", 0], mode="ControlNet++", low=100, high=200, resolution=0
        ),
    }
    host.run(graph)
    sent = []
    executor = host._executor
    before, executor.server.send_sync = (
        executor.server.send_sync,
        lambda event, data, *_: sent.append((event, data)),
    )
    try:
        valid, *_, outputs, _ = asyncio.run(execution.validate_prompt("again", graph, None))
        assert valid
        executor.execute(graph, "again", {"client_id": "page"}, outputs)
    finally:
        executor.server.send_sync = before
    assert "'2'" in str([data for event, data in sent if event == "execution_cached"])
    texts = [
        data["output"]["text"]
        for event, data in sent
        if event == "executed" and data["node"] == "2"
    ]
    assert texts
    assert texts[0][0].startswith("Edge F1 (exact pixels): 100.0%")
