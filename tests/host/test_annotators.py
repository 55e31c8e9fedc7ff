"""The nodes of the group annotate in the real host, with random weights in files of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from harness import picture, randomise
from safetensors.torch import save_file

AUX = Path("comfyui_controlnet_aux", "ckpts", "lllyasviel", "Annotators")


@pytest.fixture(scope="module")
def weight_files(host, tmp_path_factory) -> dict[str, Path]:
    """By key a file with random weights under the published names."""
    folder = tmp_path_factory.mktemp("weights")
    kinds = {"hed": host.pack("annotators.softedge").HED}
    files = {}
    for seed, (key, kind) in enumerate(kinds.items()):
        name = Path(host.pack("annotators.weights").WEIGHTS[key].name)
        files[key] = folder / name.with_suffix(".safetensors")
        save_file(randomise(kind(), seed).state_dict(), files[key])
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
    def fetch(key, folder, show):
        assert (key, folder) == ("hed", models)
        for done in (0, 50, 100):
            show(done, 100)
        return put(weight_files["hed"], folder)

    monkeypatch.setattr(host.pack("annotators.weights"), "download", fetch)
    edges, _ = soft_edge(host, picture(height=64, width=64), download=True)
    assert edges.shape == (1, 64, 64, 3)
    assert (100, 100) in progress


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


def test_a_batch_is_one_forward_and_equals_its_pictures_one_by_one(host, forwards):
    images = picture(batch=4, height=50, width=70)
    together, _ = soft_edge(host, images)
    assert forwards == [4]
    singly = torch.cat([soft_edge(host, images[i : i + 1])[0] for i in range(4)])
    assert together.sub(singly).abs().max() <= 1 / 255 + 1e-6  # 8 bits, another summation order


def test_a_long_batch_shows_progress(host, forwards, progress):
    soft_edge(host, picture(batch=40, height=16, width=16))
    assert forwards == [16, 16, 8]
    assert progress[-1] == (40, 40)


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


def test_gradients_reach_a_picture_although_the_weights_moved_in_inference_mode(host, forwards):
    _, annotator = soft_edge(host, picture(height=32, width=32), resolution=24)
    with torch.inference_mode():
        for parameter in patcher_of(host, "hed").model.parameters():
            parameter.data = parameter.data.clone()
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
