"""Training data: from a folder, from lists of other nodes, and drawn."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest
import torch
from controlnet_pp.tests.host.graphs import node
from controlnet_pp.tests.host.train.given import DATA, data_of
from PIL import Image

DATASET = "comfy_extras/nodes_dataset.py"
CANNY = "canny (cv2)"
CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scenes(host, count=4, size=128):
    """IMAGE list and captions."""
    world = host.pack("demo.world")
    batch = world.load_batch(world.TRAIN_SEED, range(count), size)
    return [i[None] for i in batch.images.movedim(1, -1)], list(batch.captions)


def listed(host, parts, **changes):
    images, captions = scenes(host)
    given = {"source": "lists", "images": images, "captions": captions, "held_out": 1}
    return data_of(host, parts, **given | changes)


@pytest.fixture
def folder(host, tmp_path):
    """NAME.png and NAME.txt, and conditions of the same names."""
    images, captions = scenes(host)
    for place in ("pictures", "conditions"):
        (tmp_path / place).mkdir()
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        picture = Image.fromarray((image[0] * 255).round().byte().numpy())
        picture.save(tmp_path / "pictures" / f"{number}.png")
        picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(
            tmp_path / "conditions" / f"{number}.png"
        )
        (tmp_path / "pictures" / f"{number}.txt").write_text(caption, encoding="utf-8")
    return tmp_path


def one_batch(data, batch=3, seed=0):
    return data.rows.draw(batch, False, CPU)(seeded(seed))


def test_scenes_of_the_demo_world_come_with_conditions_found_and_others_held_out(host, parts):
    data = data_of(host, parts, pictures=5, held_out=2)
    assert data.text.splitlines() == [
        "5 pictures to train with, 2 held out",
        "conditions: seg, found in the pictures",
    ]
    batch = one_batch(data)
    assert batch.x0.shape == (3, 4, 16, 16)
    assert batch.hint.shape == (3, 3, 128, 128)
    assert not any(t.is_inference() for t in (batch.x0, batch.hint, batch.context, batch.empty))
    (held,) = data.rows.held_out(False, CPU)
    assert len(held) == 2
    colours = (held.hint.movedim(1, -1).reshape(-1, 3) * 255).round().int().tolist()
    palette = {tuple(colour) for colour in colours}
    assert palette == set(host.pack("demo.segmenter").PALETTE)


def test_latents_and_prompts_are_those_of_the_graphs_vae_and_clip(host, parts):
    images, captions = scenes(host)
    data = listed(host, parts, drop_text=0.0)
    (latent,) = host.call("VAEEncode", vae=parts[2], pixels=torch.cat(images))
    contexts = torch.cat(
        [host.call("CLIPTextEncode", clip=parts[1], text=text)[0][0][0] for text in captions]
    )
    empty = host.call("CLIPTextEncode", clip=parts[1], text="")[0][0][0]
    batch = one_batch(data)
    for x0, context in zip(batch.x0, batch.context, strict=True):
        (row,) = (n for n in range(4) if torch.allclose(x0, latent["samples"][n], atol=1e-3))
        torch.testing.assert_close(context, contexts[row], atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.empty, empty.expand_as(batch.empty), atol=1e-4, rtol=0)


def test_captions_may_be_written_into_the_node_one_in_a_line(host, parts):
    _, captions = scenes(host)
    written = listed(host, parts, captions="\n".join(captions))
    assert written.stamp == listed(host, parts).stamp


def test_conditions_of_a_list_go_with_their_pictures(host, parts):
    images, _ = scenes(host)
    data = listed(host, parts, conditions=[image.flip(2) for image in images], annotator=None)
    batch = one_batch(data)
    with torch.inference_mode():
        latents = parts[2].encode(batch.hint.movedim(1, -1).flip(2))
    torch.testing.assert_close(latents, batch.x0, atol=1e-4, rtol=0)


def test_a_network_finds_each_condition_once(host, parts):
    looked = []

    def find(image):
        looked.append(len(image))
        return image[:, :1]

    data = listed(host, parts, annotator=host.annotator("depth", find), kind="depth", held_out=1)
    for seed in range(12):
        one_batch(data, seed=seed)
    data.rows.held_out(False, CPU)
    assert len(looked) <= 4


def test_thresholds_of_canny_vary_in_training_and_not_in_what_is_held_out(host, parts):
    coarse = torch.rand(4, 3, 32, 32, generator=seeded())
    images = torch.nn.functional.interpolate(coarse, scale_factor=4.0, mode="bilinear")
    data = listed(
        host, parts, kind=CANNY, annotator=None, vary_thresholds=True,
        images=[image[None] for image in images.movedim(1, -1)],
    )  # fmt: skip
    draw = data.rows.draw(1, False, CPU)
    hints = {host.pack("nodes.host.train.data").digest(draw(seeded(n)).hint) for n in range(9)}
    assert len(hints) > 3  # there are three pictures
    first, second = (data.rows.held_out(False, CPU)[0].hint for _ in range(2))
    assert torch.equal(first, second)


def test_a_folder_is_read_by_name_with_and_without_conditions(host, parts, folder):
    given = {"source": "folder", "folder": str(folder / "pictures"), "held_out": 1}
    found = data_of(host, parts, **given)
    assert "3 pictures to train with, 1 held out" in found.text
    data = data_of(
        host, parts, **given, conditions_folder=str(folder / "conditions"), annotator=None
    )
    assert "conditions: seg, given" in data.text
    batch = one_batch(data)
    with torch.inference_mode():
        latents = parts[2].encode(batch.hint.movedim(1, -1).flip(1))
    torch.testing.assert_close(latents, batch.x0, atol=1e-4, rtol=0)


def test_the_layout_of_fill50k_is_read_from_the_input_folder(host, parts, folder):
    lines = [
        json.dumps(
            {"source": f"conditions/{n}.png", "target": f"pictures/{n}.png", "prompt": f"scene {n}"}
        )
        for n in range(4)
    ]
    place = host.folder / "input" / "fill"
    if not place.exists():
        place.symlink_to(folder, target_is_directory=True)
    (folder / "prompt.json").write_text("\n".join(lines), encoding="utf-8")
    data = data_of(host, parts, source="folder", folder="fill", annotator=None)
    assert "2 pictures to train with, 2 held out" in data.text


def test_latents_and_conditioning_are_taken_as_they_come(host, parts):
    images, captions = scenes(host)
    latents = [host.call("VAEEncode", vae=parts[2], pixels=image)[0] for image in images]
    prompts = [host.call("CLIPTextEncode", clip=parts[1], text=text)[0] for text in captions]
    data = data_of(
        host, parts, source="lists", latents=latents, conditioning=prompts, conditions=images,
        annotator=None, vae=None, drop_text=0.0, held_out=1,
    )  # fmt: skip
    batch = one_batch(data)
    assert not any(t.is_inference() for t in (batch.x0, batch.hint, batch.context, batch.empty))
    for x0, context, hint in zip(batch.x0, batch.context, batch.hint, strict=True):
        (row,) = (n for n in range(4) if torch.equal(x0, latents[n]["samples"][0]))
        assert torch.equal(context, prompts[row][0][0][0])
        assert torch.equal(hint, images[row][0].movedim(-1, 0))


def test_the_hosts_own_dataset_nodes_feed_it(host, parts, folder, comfy_root):
    """Loader, encoder and this node in one graph, whose lists the host hands on."""
    import nodes  # the host's own

    if not (comfy_root / DATASET).is_file():
        pytest.skip("this ComfyUI has no dataset nodes")
    asyncio.run(nodes.load_custom_node(str(comfy_root / DATASET), module_parent="comfy_extras"))
    place = host.folder / "input" / "pictures"
    if not place.exists():
        shutil.copytree(folder / "pictures", place)
    graph = {
        "demo": node("CNPP_DemoModel", example=3),
        "load": node("LoadImageTextDataSetFromFolder", folder="pictures"),
        "encode": node(
            "MakeTrainingDataset", images=["load", 0], texts=["load", 1], vae=["demo", 2],
            clip=["demo", 1],
        ),
        "pictures": node(
            "CNPP_ControlNetTrainingData", clip=["demo", 1], vae=["demo", 2],
            annotator=["demo", 6], images=["load", 0],
            **DATA | {"source": "lists", "captions": ["load", 1], "held_out": 1},
        ),
        "latents": node(
            "CNPP_ControlNetTrainingData", clip=["demo", 1], latents=["encode", 0],
            conditioning=["encode", 1], conditions=["load", 0],
            **DATA | {"source": "lists", "held_out": 1},
        ),
    }  # fmt: skip
    outputs = host.run(graph)
    assert outputs["pictures"]["text"][0].startswith("3 pictures to train with, 1 held out")
    assert outputs["latents"]["text"][0].startswith("3 latents to train with, 1 held out")


def test_what_was_encoded_is_found_again_on_disk(host, parts):
    calls = []
    vae = parts[2]
    original = vae.encode

    def counted(pixels):
        calls.append(1)
        return original(pixels)

    vae.encode = counted
    try:
        first = one_batch(listed(host, parts, cache_on_disk=True))
        second = one_batch(listed(host, parts, cache_on_disk=True))
    finally:
        del vae.encode
    assert len(calls) == 4
    assert torch.equal(first.x0, second.x0)


def test_another_stamp_for_other_data(host, parts):
    stamps = {
        listed(host, parts).stamp,
        listed(host, parts).stamp,
        listed(host, parts, captions=["other", *scenes(host)[1][1:]]).stamp,
        listed(host, parts, images=[scenes(host)[0][0].flip(1), *scenes(host)[0][1:]]).stamp,
        listed(host, parts, mirror=True).stamp,
    }
    assert len(stamps) == 4


def test_the_node_runs_again_when_a_file_changes(host, folder):
    node = host.registry["CNPP_ControlNetTrainingData"]
    given = {"folder": [str(folder / "pictures")], "conditions_folder": [""]}
    before = node.fingerprint_inputs(**given)
    assert before == node.fingerprint_inputs(**given)
    (folder / "pictures" / "1.txt").write_text("another caption", encoding="utf-8")
    assert before != node.fingerprint_inputs(**given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"captions": ["a", "b"]}, "there are 4 images and 2 captions, expected one for each"),
        ({"captions": ["a", "b", " ", "d"]}, "caption 3 of 4 is empty"),
        ({"images": None}, "neither of images and latents"),
        ({"vae": None}, "vae is not connected"),
        ({"held_out": 4}, "there are 4 pictures and held_out is 4"),
        ({"kind": "depth", "annotator": None}, "kind is depth, which nothing here finds"),
        ({"kind": CANNY}, "kind is canny.*, but the connected annotator finds seg"),
        ({"kind": "other"}, "kind is other, but the connected annotator finds seg"),
        ({"kind": "other", "annotator": None}, "kind is other, which nothing here finds"),
        ({"vary_thresholds": True}, "vary_thresholds is for canny"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lists_that_do_not_fit_are_refused_in_words(host, parts, changes, words):
    with pytest.raises(ValueError, match=words):
        listed(host, parts, **changes)


def test_conditions_that_do_not_pair_are_refused(host, parts):
    images, _ = scenes(host)
    with pytest.raises(ValueError, match="4 images and 3 conditions"):
        listed(host, parts, conditions=images[:3])
    small = [*images[:2], images[2][:, :64], images[3]]
    with pytest.raises(ValueError, match="picture 3 is 128x128 pixels and condition 3 128x64"):
        listed(host, parts, conditions=small)


def test_latents_that_do_not_fit_are_refused(host, parts):
    images, captions = scenes(host)
    latents = [{"samples": torch.zeros(1, 4, 16, 16)}] * 4
    prompts = [host.call("CLIPTextEncode", clip=parts[1], text=text)[0] for text in captions]
    given = {
        "source": "lists", "latents": latents, "conditioning": prompts, "conditions": images,
        "annotator": None,
    }  # fmt: skip
    for changes, words in (
        ({"conditions": None}, "conditions are not. Connect the list of condition images"),
        ({"conditioning": prompts[:2]}, "4 latents and 2 conditioning"),
        ({"latents": [{"samples": torch.zeros(1, 16, 16, 16)}]}, r"latents of shape \(1, 16"),
        ({"conditioning": [prompts[0] * 2, *prompts[1:]]}, "conditioning 1 has 2 prompts"),
        ({"mirror": True}, "mirror and vary_thresholds need pictures"),
        ({"images": images}, "both of images and latents"),
    ):
        with pytest.raises(ValueError, match=words):
            data_of(host, parts, **given | changes)


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ("pictures/2.txt", r"its caption .*2\.txt is missing"),
        ("conditions/2.png", "there is no condition 2 in"),
        ("pictures/2.png", "there is no picture for the condition 2"),
    ],
)
def test_a_folder_that_lacks_something_is_refused_or_said(host, parts, folder, remove, words):
    (folder / remove).unlink()
    given = {
        "source": "folder", "folder": str(folder / "pictures"),
        "conditions_folder": str(folder / "conditions"), "held_out": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=words):
        data_of(host, parts, **given)
    data = data_of(host, parts, **given, skip_bad=True)
    assert "2 pictures to train with, 1 held out" in data.text
    assert "skipped" in data.text


def test_a_folder_that_is_not_there_is_refused(host, parts):
    for folder, words in (("", "folder is empty"), ("nowhere", "There is no folder .*nowhere")):
        with pytest.raises(ValueError, match=words):
            data_of(host, parts, source="folder", folder=folder)


def test_cancel_stops_while_pictures_are_encoded(host, parts, monkeypatch):
    from comfy import model_management

    calls = []
    original = parts[2].encode

    def encode(pixels):
        calls.append(1)
        model_management.interrupt_current_processing()
        return original(pixels)

    monkeypatch.setattr(parts[2], "encode", encode)
    with pytest.raises(model_management.InterruptProcessingException):
        listed(host, parts)
    assert len(calls) == 1
