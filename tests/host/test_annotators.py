"""The nodes of the group annotate in the real host, with random weights in files of their own."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from harness import picture, randomise
from safetensors.torch import save_file

AUX = Path("comfyui_controlnet_aux", "ckpts", "lllyasviel", "Annotators")


@pytest.fixture(scope="module")
def weight_files(host, tmp_path_factory) -> dict[str, Path]:
    """By key a file with random weights under the published names."""
    folder = tmp_path_factory.mktemp("weights")
    kinds = {
        "hed": host.pack("annotators.softedge").HED,
        "lineart": host.pack("annotators.lineart").LineArt,
        "lineart_coarse": host.pack("annotators.lineart").LineArt,
        "mlsd": host.pack("annotators.mlsd").MLSD,
        "openpose_body": host.pack("annotators.openpose").OpenPoseBody,
        "dpt_hybrid": host.pack("annotators.depth").DPTHybrid,
    }
    files = {}
    for seed, (key, kind) in enumerate(kinds.items()):
        name = Path(host.pack("annotators.weights").WEIGHTS[key].name)
        files[key] = folder / name.with_suffix(".safetensors")
        state = randomise(kind(dtype=torch.float16), seed).state_dict()
        if key == "dpt_hybrid":  # it ends in a ReLU, below which all would be black
            state["scratch.output_conv.4.bias"].fill_(2)
        save_file(state, files[key])
    return files


@pytest.fixture
def models(host, tmp_path, monkeypatch, weight_files) -> Path:
    """An empty models/annotators, and nothing loaded."""
    import folder_paths

    folder = tmp_path / "models" / "annotators"
    folder.mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "models_dir", str(folder.parent))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "annotators", ([str(folder)], {".safetensors"})
    )
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "custom_nodes", ([str(tmp_path / "packs")], set())
    )
    monkeypatch.setattr(host.pack("nodes.host.annotators"), "_patchers", {})
    return folder


def put(file: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(file, folder))


def soft_edge(host, image, **options):
    options = {"safe": False, "resolution": 0} | options
    return host.call("CNPP_SoftEdge", image=image, **options)


def test_weights_are_found_in_models_annotators(host, models, weight_files):
    put(weight_files["hed"], models)
    edges, _ = soft_edge(host, picture(height=64, width=96))
    assert edges.shape == (1, 64, 96, 3)
    assert edges.std() > 0.01


def test_weights_are_found_where_the_aux_pack_keeps_them(host, models, weight_files, tmp_path):
    put(weight_files["hed"], tmp_path / "packs" / AUX)
    edges, _ = soft_edge(host, picture(height=64, width=64))
    assert edges.shape == (1, 64, 64, 3)


def test_weights_are_found_in_a_folder_of_extra_model_paths(host, models, weight_files, tmp_path):
    import folder_paths

    extra = put(weight_files["hed"], tmp_path / "elsewhere").parent
    folder_paths.add_model_folder_path("annotators", str(extra))
    edges, _ = soft_edge(host, picture(height=64, width=64))
    assert edges.shape == (1, 64, 64, 3)


def test_missing_weights_are_named_with_folder_address_size_and_licence(host, models):
    with pytest.raises(FileNotFoundError) as error:
        soft_edge(host, picture(height=64, width=64))
    said = str(error.value)
    for part in ("ControlNetHED.pth", str(models), "https://", "29.4 MB", "Apache-2.0", "download"):
        assert part in said


def test_nothing_is_downloaded_unless_asked_for(host, models, monkeypatch):
    def refuse(*_):
        raise AssertionError("asked for the network")

    monkeypatch.setattr(host.pack("annotators.weights"), "download", refuse)
    with pytest.raises(FileNotFoundError):
        soft_edge(host, picture(height=64, width=64))


def test_the_download_switch_fetches_into_models_annotators_with_progress(
    host, models, weight_files, monkeypatch, progress
):
    catalogue = host.pack("annotators.weights").WEIGHTS
    data = weight_files["hed"].read_bytes()
    with serve(data) as address:
        served = replace(catalogue["hed"], url=address, sha256=sha256(data).hexdigest())
        monkeypatch.setitem(catalogue, "hed", served)
        edges, _ = soft_edge(host, picture(height=64, width=64), download=True)
    assert edges.shape == (1, 64, 64, 3)
    assert (models / "ControlNetHED.pth").read_bytes() == data
    assert (len(data), len(data)) in progress


@contextmanager
def serve(data: bytes) -> Iterator[str]:
    """An address on this machine that answers with `data`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/file"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def progress(monkeypatch) -> list[tuple[int, int]]:
    """(done, of) of every step that the host would have shown."""
    import comfy.utils

    shown: list[tuple[int, int]] = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda done, total, preview, **_: shown.append((done, total)),
    )
    return shown


def test_an_interrupt_stops_a_download(host, models, monkeypatch):
    import comfy.model_management as management

    def fetch(_key, _folder, show):
        management.interrupt_current_processing()
        show(1, 100)

    monkeypatch.setattr(host.pack("annotators.weights"), "download", fetch)
    with pytest.raises(management.InterruptProcessingException):
        soft_edge(host, picture(height=64, width=64), download=True)


def test_a_second_run_does_not_touch_the_disk(host, models, weight_files):
    file = put(weight_files["hed"], models)
    first, _ = soft_edge(host, picture(height=64, width=64))
    file.unlink()
    again, _ = soft_edge(host, picture(height=64, width=64))
    assert torch.equal(first, again)


def patcher_of(host, key):
    return host.pack("nodes.host.annotators")._patchers[key]


def test_the_host_can_offload_an_annotator_and_load_it_again(host, models, weight_files):
    import comfy.model_management as management

    put(weight_files["hed"], models)
    first, annotator = soft_edge(host, picture(height=64, width=64))
    loaded = [entry.model for entry in management.current_loaded_models]
    assert any(model is patcher_of(host, "hed") for model in loaded)
    management.unload_all_models()
    again, same = soft_edge(host, picture(height=64, width=64))
    assert torch.equal(first, again)
    assert same.patchers == annotator.patchers


@pytest.fixture
def forwards(host, models, weight_files) -> list[int]:
    """Pictures in each forward of HED."""
    put(weight_files["hed"], models)
    soft_edge(host, picture(height=32, width=32))
    seen: list[int] = []
    network = patcher_of(host, "hed").model
    network.block1.convs[0].register_forward_hook(lambda *args: seen.append(len(args[-1])))
    return seen


@pytest.fixture
def steps(host, monkeypatch) -> list[int]:
    """Pictures done at every step of a progress bar, also those that come too fast to be shown."""
    done = []

    class Bar(host.pack("nodes.host.annotators").ProgressBar):
        def update_absolute(self, value, *args, **kwargs):
            done.append(value)
            super().update_absolute(value, *args, **kwargs)

    monkeypatch.setattr(host.pack("nodes.host.annotators"), "ProgressBar", Bar)
    return done


def test_on_a_cpu_a_batch_goes_picture_by_picture_with_progress(host, forwards, progress, steps):
    images = picture(batch=4, height=50, width=70)
    together, _ = soft_edge(host, images)
    assert forwards == [1, 1, 1, 1]
    assert steps == [1, 2, 3, 4]
    assert progress[-1] == (4, 4)
    singly = torch.cat([soft_edge(host, images[i : i + 1])[0] for i in range(4)])
    assert torch.equal(together, singly)


def test_elsewhere_a_long_batch_goes_in_large_parts_with_progress(
    host, progress, steps, monkeypatch
):
    annotators = host.pack("nodes.host.annotators")
    monkeypatch.setattr(annotators, "load", lambda *_: None)
    monkeypatch.setattr(annotators.model_management, "get_free_memory", lambda _: 2**40)
    elsewhere = [SimpleNamespace(load_device=torch.device("meta"))]
    assert annotators.in_chunks(len, torch.rand(40, 3, 16, 16), elsewhere) == [16, 16, 8]
    assert steps == [16, 32, 40]
    assert progress[-1] == (40, 40)


def test_elsewhere_parts_are_as_large_as_memory_allows(host, monkeypatch):
    annotators = host.pack("nodes.host.annotators")
    one = 16 * 16 * annotators.VALUES_PER_PIXEL * 2  # bytes
    monkeypatch.setattr(annotators, "load", lambda *_: None)
    monkeypatch.setattr(annotators.model_management, "get_free_memory", lambda _: 5 * one)
    elsewhere = [SimpleNamespace(load_device=torch.device("meta"))]
    assert annotators.in_chunks(len, torch.rand(10, 3, 16, 16), elsewhere) == [4, 4, 2]


def test_an_interrupt_stops_between_two_layers(host, forwards):
    import comfy.model_management as management

    network = patcher_of(host, "hed").model
    stop = network.block2.register_forward_pre_hook(
        lambda *_: management.interrupt_current_processing()
    )
    with pytest.raises(management.InterruptProcessingException):
        soft_edge(host, picture(height=32, width=32))
    stop.remove()
    edges, _ = soft_edge(host, picture(height=32, width=32))
    assert edges.shape == (1, 32, 32, 3)


def test_without_memory_for_all_the_batch_is_halved(host):
    seen = []

    def run(image):
        seen.append(len(image))
        if len(image) > 3:
            raise torch.cuda.OutOfMemoryError("no room")
        return image

    image = torch.rand(10, 3, 8, 8)
    found = host.pack("nodes.host.annotators").in_chunks(run, image)
    assert seen == [10, 5, 3, 3, 3, 1]
    assert torch.equal(torch.cat(found), image)


def test_weights_are_in_half_precision_where_the_host_uses_it(host, models, monkeypatch):
    import comfy.model_management as management

    gpu = torch.device("cuda", 0)  # nothing is moved there before it runs
    monkeypatch.setattr(management, "get_torch_device", lambda: gpu)
    monkeypatch.setattr(management, "should_use_fp16", lambda device: device == gpu)
    asked = []

    def read(dtype, device):
        asked.append((dtype, device.type))
        return torch.nn.Linear(2, 2, dtype=dtype, device=device)

    patcher = host.pack("nodes.host.annotators").once("a network", read)
    assert asked == [(torch.float16, "cpu")]
    assert patcher.load_device == gpu


@pytest.mark.parametrize("key", ["hed", "lineart", "dpt_hybrid"])
def test_half_precision_gives_nearly_the_same_map(host, weight_files, key):
    kinds = {"hed": "softedge.HED", "lineart": "lineart.LineArt", "dpt_hybrid": "depth.DPTHybrid"}
    module, _, kind = kinds[key].partition(".")
    found = []
    for dtype in (torch.float32, torch.float16):
        network = getattr(host.pack(f"annotators.{module}"), kind)(dtype=dtype).eval()
        host.pack("annotators.weights").load(network, key, weight_files[key])
        found.append(network.annotate(picture(height=64, width=64).movedim(-1, 1)))
    assert found[0].std() > 0.01
    assert (found[0] - found[1]).abs().mean() < 0.01


def test_gradients_reach_a_picture_although_the_weights_moved_in_inference_mode(host, forwards):
    _, annotator = soft_edge(host, picture(height=32, width=32), resolution=24)
    with torch.inference_mode():
        network = patcher_of(host, "hed").model
        network.load_state_dict(
            {k: v.clone() for k, v in network.state_dict().items()}, assign=True
        )
    assert all(parameter.is_inference() for parameter in network.parameters())
    with torch.inference_mode(False), torch.enable_grad():
        image = torch.rand(1, 3, 32, 40, requires_grad=True)
        soft = annotator.soft(image)
        assert soft.shape[-2:] == (24, 30)
        soft.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_the_annotator_gives_what_the_node_gave(host, forwards):
    image = picture(height=48, width=60)
    edges, annotator = soft_edge(host, image, resolution=32, safe=True)
    again = annotator(image.movedim(-1, 1))
    assert annotator.condition == "softedge"
    assert edges.shape == (1, 32, 40, 3)
    assert torch.equal(again.movedim(1, -1).expand(-1, -1, -1, 3), edges)


@pytest.mark.parametrize(
    ("target", "expected"),
    [((512, 512), (128, 192)), ((96, 96), (96, 144)), ((144, 64), (96, 144))],
)
def test_pixel_perfect_scales_the_picture_to_cover_the_target(host, target, expected):
    """So that the condition, cropped in the centre, needs no scaling any more."""
    edges, _ = host.call(
        "CNPP_Canny",
        image=picture(height=64, width=96)
        if target == (512, 512)
        else picture(height=128, width=192),
        mode="ControlNet++",
        low=100,
        high=200,
        resolution=32,
        target_width=192 if target == (512, 512) else target[0],
        target_height=128 if target == (512, 512) else target[1],
    )
    assert edges.shape[1:3] == expected


def test_half_a_target_is_refused(host):
    with pytest.raises(ValueError, match="target_width is 512 and target_height 0"):
        host.call(
            "CNPP_Canny",
            image=picture(),
            mode="cv2",
            low=100,
            high=200,
            resolution=0,
            target_width=512,
        )


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


@pytest.fixture(scope="module")
def upernet(host, tmp_path_factory) -> Path:
    """A folder with a tiny random UperNet for ADE20K, in transformers' format."""
    import transformers

    labels = dict(enumerate(host.pack("annotators.ade20k").CLASSES))
    config = transformers.UperNetConfig(
        backbone_config=transformers.ConvNextConfig(
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        hidden_size=16,
        use_auxiliary_head=False,
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
    )
    torch.manual_seed(0)
    model = transformers.UperNetForSemanticSegmentation(config).eval()
    torch.nn.init.normal_(model.decode_head.classifier.weight)  # else one class wins everywhere
    folder = tmp_path_factory.mktemp("models") / "tiny_upernet"
    model.save_pretrained(folder)
    return folder


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
    known = host.pack("cnpp_core.condition").Condition.__members__
    assert {name.lower() for name in known} == set(SAME)
    (choice,) = (
        given
        for given in host.registry["CNPP_Annotate"].define_schema().inputs
        if given.id == "condition"
    )
    assert list(choice.options) == list(SAME)


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
        "1": {"class_type": "LoadImage", "inputs": {"image": "red.png"}},
        "2": {
            "class_type": "CNPP_SoftEdge",
            "inputs": {"image": ["1", 0], "safe": False, "resolution": 0},
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    assert len(host.run(graph)["3"]["images"]) == 1
