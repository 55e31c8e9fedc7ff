"""Annotators as models of the real host: their weights, batches, memory, precision and sizes."""

from __future__ import annotations

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
from controlnet_pp.tests.host.annotate.annotated import patcher_of, put, soft_edge
from controlnet_pp.tests.host.harness import picture

AUX = Path("comfyui_controlnet_aux", "ckpts", "lllyasviel", "Annotators")


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

    class Bar(host.pack("nodes.host.annotate.networks").ProgressBar):
        def update_absolute(self, value, *args, **kwargs):
            done.append(value)
            super().update_absolute(value, *args, **kwargs)

    monkeypatch.setattr(host.pack("nodes.host.annotate.networks"), "ProgressBar", Bar)
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
    annotators = host.pack("nodes.host.annotate.networks")
    monkeypatch.setattr(annotators, "load", lambda *_: None)
    monkeypatch.setattr(annotators.model_management, "get_free_memory", lambda _: 2**40)
    elsewhere = [SimpleNamespace(load_device=torch.device("meta"))]
    assert annotators.in_chunks(len, torch.rand(40, 3, 16, 16), elsewhere) == [16, 16, 8]
    assert steps == [16, 32, 40]
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


def test_weights_are_in_half_precision_where_the_host_uses_it(host, models, monkeypatch):
    import comfy.model_management as management

    gpu = torch.device("cuda", 0)  # nothing is moved there before it runs
    monkeypatch.setattr(management, "get_torch_device", lambda: gpu)
    monkeypatch.setattr(management, "should_use_fp16", lambda device: device == gpu)
    asked = []

    def read(dtype, device):
        asked.append((dtype, device.type))
        return torch.nn.Linear(2, 2, dtype=dtype, device=device)

    patcher = host.pack("nodes.host.annotate.networks").once("a network", read)
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
