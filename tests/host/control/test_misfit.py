"""The remark under Apply ControlNet++ for an image that plainly is no condition for its control."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import block_scales
from controlnet_pp.tests.host.control.test_union_types import CANNY, DEPTH, TILE, typed
from controlnet_pp.tests.host.control.test_union_types import loaded as union
from controlnet_pp.tests.host.graphs import demo_graph, node
from controlnet_pp.tests.host.harness import TINY, apply, picture, prompt

PHOTO = picture(seed=5)
EDGES = (PHOTO.mean(-1, keepdim=True) > 0.7).float().expand(-1, -1, -1, 3)


def remark(host, control, image, strength=0.8, **more):
    """What the node shows; None for nothing."""
    out = host.registry["CNPP_Apply"].execute(
        positive=prompt(TINY, 1),
        negative=prompt(TINY, 2),
        control_net=control,
        image=image,
        strength=strength,
        start_percent=0.0,
        end_percent=1.0,
        **more,
    )
    return "".join(out.ui["text"]) if out.ui else None


def loaded(host, name):
    host.file(TINY, name)
    return host.call("CNPP_LoadControlNet", control_net_name=name, dtype="auto")[0]


@pytest.fixture(scope="module")
def canny(host):
    return loaded(host, "control_v11p_tiny_canny.safetensors")


def test_a_photograph_for_a_canny_network_is_remarked_on_and_edges_are_not(host, canny):
    assert "seems to read Canny" in remark(host, canny, PHOTO)
    assert remark(host, canny, EDGES) is None
    assert remark(host, canny, PHOTO, strength=0.0) is None


def test_a_shaped_control_is_still_known(host, canny):
    scales = block_scales(host, *[0.5] * 5)
    assert "Canny" in remark(host, canny, PHOTO, scales=scales)
    shaped = apply(host, canny, scales=scales)[0][0][1]["control"]
    assert "Canny" in remark(host, shaped, PHOTO)
    assert remark(host, shaped, EDGES) is None


@pytest.mark.parametrize("name", ["tiny_network", "control_v11f1e_tiny_tile", "anytest_canny"])
def test_nothing_is_said_where_the_name_does_not_tell_or_pictures_are_read(host, name):
    assert remark(host, loaded(host, f"{name}.safetensors"), PHOTO) is None


def test_nothing_is_said_of_a_control_of_another_loader(host):
    host.file(TINY, "other_canny.safetensors")
    (theirs,) = host.call("ControlNetLoader", control_net_name="other_canny.safetensors")
    assert remark(host, theirs, PHOTO) is None


def test_the_control_is_the_same_with_and_without_a_remark(host, canny):
    import comfy.controlnet

    unnamed = loaded(host, "tiny_network.safetensors")
    applied, expected = apply(host, canny, image=PHOTO), apply(host, unnamed, image=PHOTO)
    assert type(applied[0][0][1]["control"]) is comfy.controlnet.ControlNet
    ours, theirs = (host.sample(host.model(TINY), *both) for both in (applied, expected))
    assert torch.equal(ours, theirs)


def test_the_text_is_in_the_history_and_goes_once_the_image_is_right(host, monkeypatch):
    edges = demo_graph(steps=1) | {
        "demo": node("CNPP_DemoModel", example=3, condition="canny"),
        "picture": node("VAEDecode", samples=["sampler", 0], vae=["demo", 2]),
        "shown": node("PreviewImage", images=["picture", 0]),
    }
    photo = edges | {
        "apply": node("CNPP_Apply", **edges["apply"]["inputs"] | {"image": ["demo", 4]})
    }
    host.run(edges)
    server, sent = host._executor.server, []
    page = property(lambda _: "page", lambda *_: None)  # each run would set it to nobody
    monkeypatch.setattr(type(server), "client_id", page, raising=False)
    monkeypatch.setattr(server, "send_sync", lambda event, data, *_: sent.append((event, data)))

    def told():
        """Texts of the node that the page was sent since this was last asked."""
        events = [data for event, data in sent if event == "executed" and data["node"] == "apply"]
        sent.clear()
        return [list(data["output"]["text"]) for data in events if data["output"]]

    (text,) = host.run(photo)["apply"]["text"]
    assert "seems to read Canny" in text
    assert told() == [[text]]
    host.run(edges)
    assert told() == [[""]]  # else the page would go on showing the remark
    assert "apply" not in host.run(edges)
    assert told() == []


def test_a_union_network_is_asked_for_each_of_its_types(host):
    said = host.pack("nodes.host.control.misfit").misfit_remark

    def reading(*types):
        control = union(host)
        for kind, image in types:
            control = typed(host, control, kind, image=image)
        return control

    assert said(union(host), PHOTO) == ""
    assert "Line Art or M-LSD Lines" in said(reading((CANNY, None)), PHOTO)
    assert said(reading((CANNY, None)), EDGES) == ""
    assert said(reading((TILE, None)), PHOTO) == ""
    assert "Depth" in said(reading((CANNY, None), (DEPTH, PHOTO)), EDGES)
    assert "Canny" in said(reading((CANNY, None), (DEPTH, EDGES)), PHOTO)
    assert said(reading((CANNY, None), (TILE, PHOTO)), EDGES) == ""
    assert said(typed(host, reading((CANNY, None)), DEPTH, weight=0.0, image=PHOTO), EDGES) == ""
