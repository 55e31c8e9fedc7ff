"""The nodes of poses: keypoints as text, as other packs write them, and as a drawing."""

from __future__ import annotations

import asyncio
import json

import pytest
import torch
from controlnet_pp.tests.host.annotate.annotated import put
from controlnet_pp.tests.host.harness import picture

PEOPLE = {
    "people": [
        {
            "pose_keypoints_2d": [40, 10, 1, 40, 30, 1, 25, 30, 1, 20, 45, 1, 18, 60, 1] + [0] * 39,
            "hand_left_keypoints_2d": None,
            "face_keypoints_2d": [],
        }
    ],
    "canvas_height": 96,
    "canvas_width": 64,
}


def draw(host, **options):
    defaults = {"json": "", "body": True, "hands": True, "face": True, "sticks": "standard"}
    return host.call("CNPP_OpenPoseDraw", **defaults | {"width": 0, "height": 0} | options)


def test_keypoints_of_other_packs_are_drawn_and_completed(host):
    pose, keypoints, text = draw(host, keypoints=[PEOPLE])
    assert pose.shape == (1, 96, 64, 3)
    assert pose[0, 30, 40].max() > 0.5  # the neck
    (person,) = keypoints[0]["people"]
    assert len(person["hand_left_keypoints_2d"]) == 3 * 21
    assert len(person["face_keypoints_2d"]) == 3 * 70
    assert json.loads(text) == keypoints


def test_a_pose_can_be_changed_as_text(host):
    before, _, text = draw(host, keypoints=[PEOPLE])
    assert "[ 40.0, 10.0, 1.0," in text or "[40.0, 10.0, 1.0," in text
    moved = text.replace("40.0, 30.0, 1.0", "44.0, 34.0, 1.0")
    after, keypoints, _ = draw(host, json=moved, keypoints=[PEOPLE])
    assert keypoints[0]["people"][0]["pose_keypoints_2d"][3:5] == [44, 34]
    assert not torch.equal(before, after)


def test_a_pose_is_drawn_at_another_size(host):
    pose, _, _ = draw(host, keypoints=[PEOPLE], width=128, height=192)
    assert pose.shape == (1, 192, 128, 3)
    assert pose[0, 60, 80].max() > 0.5


def test_what_cannot_be_drawn_is_said_on_the_node_and_the_rest_drawn(host):
    (person,) = PEOPLE["people"]
    body = [float("nan"), *person["pose_keypoints_2d"][1:]]
    face = [5, 5, 1] * 56
    odd = PEOPLE | {"people": [person | {"pose_keypoints_2d": body, "face_keypoints_2d": face}]}
    node = host.registry["CNPP_OpenPoseDraw"]
    options = {"json": "", "body": True, "hands": True, "face": True, "sticks": "standard"}
    out = node.execute(**options, width=0, height=0, keypoints=[odd])
    (shown,) = out.ui["text"]
    assert "1 points were left out, the first in pose_keypoints_2d of frame 1" in shown
    assert "face_keypoints_2d of frame 1 has 56 points, not 68 or 70: left out." in shown
    assert out.result[0][0, 30, 40].max() > 0.5  # the neck
    plain = node.execute(**options, width=0, height=0, keypoints=[PEOPLE])
    assert not plain.ui


def test_nothing_to_draw_is_said(host):
    with pytest.raises(ValueError, match="OpenPose Draw has nothing to draw"):
        draw(host)


@pytest.fixture
def somebody(host, models, weight_files, monkeypatch):
    """OpenPose that finds the same person in every picture."""
    put(weight_files["openpose_body"], models)
    openpose = host.pack("annotators.openpose")

    def detect(_self, image, hands=None):
        assert hands is None
        return openpose.from_json([PEOPLE] * len(image))

    monkeypatch.setattr(openpose.OpenPoseBody, "detect", detect)


def open_pose(host, image, **options):
    defaults = {"body": True, "hands": False, "sticks": "standard", "resolution": 0}
    return host.call("CNPP_OpenPose", image=image, **defaults | options)


def test_the_keypoints_of_openpose_are_those_of_its_picture(host, somebody):
    pose, annotator, keypoints, text = open_pose(host, picture(batch=20, height=96, width=64))
    assert pose.shape == (20, 96, 64, 3)
    again, _, _ = draw(host, keypoints=keypoints)
    assert torch.equal(pose, again)
    assert json.loads(text) == keypoints
    assert torch.equal(annotator(torch.zeros(1, 3, 96, 64)).movedim(1, -1), pose[:1])


def test_comfyuis_own_nodes_read_our_keypoints(host, somebody):
    import nodes

    file = host.root / "comfy_extras" / "nodes_sdpose.py"
    if not file.is_file():
        pytest.skip("this ComfyUI has no pose nodes")
    asyncio.run(nodes.load_custom_node(str(file), module_parent="comfy_extras"))
    _, _, keypoints, _ = open_pose(host, picture(height=96, width=64))
    (drawn,) = host.call(
        "SDPoseDrawKeypoints",
        keypoints=keypoints,
        draw_body=True,
        draw_hands=True,
        draw_face=True,
        draw_feet=False,
        stick_width=4,
        face_point_size=3,
        score_threshold=0.3,
        draw_head=True,
    )
    assert drawn.shape == (1, 96, 64, 3)
    assert drawn[0, 30, 40].max() > 0.5


def test_openpose_with_nobody_in_the_picture_is_black(host, models, weight_files):
    put(weight_files["openpose_body"], models)
    pose, _, keypoints, _ = open_pose(host, torch.zeros(1, 40, 40, 3))
    assert pose.shape == (1, 40, 40, 3)
    assert keypoints[0]["canvas_height"] == 40
