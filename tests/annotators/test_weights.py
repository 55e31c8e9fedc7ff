"""Weight files: found where they lie, named when they are wrong, fetched whole or not at all."""

from __future__ import annotations

import hashlib
import pickle
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from aux_oracle import aux, randomise
from controlnet_pp.annotators import download as downloads
from controlnet_pp.annotators import weights
from controlnet_pp.annotators.catalogue import WEIGHTS, WeightFile
from controlnet_pp.annotators.lineart import LineArt
from controlnet_pp.annotators.mlsd import MLSD
from controlnet_pp.annotators.weights import (
    DownloadFailed,
    MissingWeights,
    WrongWeights,
    download,
    find,
    load,
    manifest,
)
from safetensors.torch import save_file
from torch import Tensor, nn

FILES = [key for key, file in WEIGHTS.items() if not file.files]


# The catalogue


@pytest.mark.parametrize("key", WEIGHTS)
def test_every_file_has_what_a_user_must_know_before_getting_it(key):
    for file in (WEIGHTS[key], *WEIGHTS[key].files):
        assert file.url.startswith("https://huggingface.co/")
        assert file.size or file.about
        assert file.licence
        assert re.fullmatch(r"[\d.]+ MB|about \d+ MB", file.size_text)
        if not file.files:
            assert file.url.endswith(f"/resolve/main/{file.name}")
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_the_openpose_files_forbid_commercial_use_and_no_other_does():
    forbidden = {key for key, file in WEIGHTS.items() if not file.commercial}
    assert forbidden == {"openpose_body", "openpose_hand"}
    for key in forbidden:
        assert "NO COMMERCIAL USE" in WEIGHTS[key].licence_text


@pytest.mark.parametrize(
    ("key", "parameters", "tensors"),
    [
        ("hed", 14_716_168, 37),
        ("mlsd", 1_533_680, 362),
        ("lineart", 4_290_945, 24),
        ("lineart_coarse", 4_290_945, 24),
        ("openpose_body", 52_311_446, 184),
        ("openpose_hand", 36_832_324, 104),
        ("dpt_hybrid", 123_146_985, 368),
    ],
)
def test_manifests_have_the_published_numbers_of_parameters_and_tensors(key, parameters, tensors):
    counters = ("running_mean", "running_var", "num_batches_tracked")
    shapes = manifest(key)
    assert len(shapes) == tensors
    learned = (torch.Size(s).numel() for name, s in shapes.items() if not name.endswith(counters))
    assert sum(learned) == parameters


def test_there_is_a_manifest_for_every_file():
    assert {path.stem for path in weights.MANIFESTS.glob("*.json")} == set(FILES)


@pytest.mark.parametrize(
    ("key", "network"), [("openpose_body", "bodypose_model"), ("openpose_hand", "handpose_model")]
)
def test_openpose_manifests_are_those_of_the_reference_without_the_stages(key, network):
    reference = getattr(aux("open_pose.model"), network)()
    shapes = {n.partition(".")[2]: tuple(v.shape) for n, v in reference.state_dict().items()}
    assert shapes == manifest(key)


# Where they lie


def place(folder: Path, *parts: str) -> Path:
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("comfyui_controlnet_aux", "ckpts", "lllyasviel", "Annotators"),
        ("lllyasviel", "Annotators"),
        ("models--lllyasviel--Annotators", "snapshots", "982e7eda"),
    ],
)
def test_a_file_is_found_where_this_and_other_packs_keep_it(tmp_path, key, parts):
    path = place(tmp_path / "b", *parts, WEIGHTS[key].name)
    assert find(key, [tmp_path / "a", tmp_path / "b"]) == path


def test_a_file_is_found_in_the_folders_of_the_webui(tmp_path):
    path = place(
        tmp_path, "extensions/sd-webui-controlnet/annotator/downloads/hed/ControlNetHED.pth"
    )
    assert find("hed", [tmp_path]) == path


def test_the_first_folder_wins(tmp_path):
    first, _ = (place(tmp_path / name, "sk_model.pth") for name in "ab")
    assert find("lineart", [tmp_path / "a", tmp_path / "b"]) == first


def test_a_file_saved_as_safetensors_counts(tmp_path):
    path = place(tmp_path / "a", "ControlNetHED.safetensors")
    assert find("hed", [tmp_path / "a"]) == path


def test_half_a_download_is_no_file(tmp_path):
    place(tmp_path / "a", "ControlNetHED.pth.part")
    with pytest.raises(MissingWeights):
        find("hed", [tmp_path / "a"])


def test_a_model_folder_is_found_once_it_is_whole(tmp_path):
    folder = tmp_path / "oneformer_ade20k_swin_tiny"
    folder.mkdir()
    names = [file.name for file in WEIGHTS["oneformer_ade20k"].files]
    for name in names[1:]:
        (folder / name).write_bytes(b"x")
    with pytest.raises(MissingWeights):
        find("oneformer_ade20k", [tmp_path])
    (folder / names[0]).write_bytes(b"x")
    assert find("oneformer_ade20k", [tmp_path]) == folder


def test_a_model_folder_is_found_in_the_hugging_face_cache(tmp_path):
    folder = tmp_path / "models--shi-labs--oneformer_ade20k_swin_tiny/snapshots/4a5bac8e"
    folder.mkdir(parents=True)
    for file in WEIGHTS["oneformer_ade20k"].files:
        (folder / file.name).write_bytes(b"x")
    assert find("oneformer_ade20k", [tmp_path]) == folder


def test_a_missing_file_is_named_with_folders_address_size_licence_and_switch(tmp_path):
    folders = [tmp_path / "annotators", tmp_path / "elsewhere"]
    with pytest.raises(MissingWeights) as caught:
        find("openpose_body", folders)
    message = str(caught.value)
    for words in (
        "body_pose_model.pth",
        str(folders[0]),
        str(folders[1]),
        "https://huggingface.co/lllyasviel/Annotators/resolve/main/body_pose_model.pth",
        "209.3 MB",
        "CMU OpenPose licence: NO COMMERCIAL USE",
        "`download`",
    ):
        assert words in message


# Loading


def random_lineart(seed: int = 0) -> LineArt:
    network = LineArt()
    randomise(network, seed)
    return network


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def zipped(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path)


def pickled(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def nested(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save({"state_dict": tensors, "epoch": 3}, path)


def below_model(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": tensors}, path)


def of_data_parallel(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in tensors.items()}, path)


@pytest.mark.parametrize(
    "save", [zipped, pickled, nested, below_model, of_data_parallel, save_file]
)
def test_every_form_of_a_file_loads_the_same_weights(tmp_path, save):
    expected = copied(random_lineart())
    save(expected, tmp_path / "sk_model.pth")
    network = LineArt()
    load(network, "lineart", tmp_path / "sk_model.pth")
    assert same(copied(network), expected)


def test_a_file_in_half_precision_loads_into_the_dtype_of_the_network(tmp_path):
    half = {name: value.half() for name, value in copied(random_lineart()).items()}
    zipped(half, tmp_path / "sk_model.pth")
    network = LineArt()
    load(network, "lineart", tmp_path / "sk_model.pth")
    assert same(copied(network), {name: value.float() for name, value in half.items()})


def test_names_without_the_stage_in_front_are_those_of_the_openpose_files(tmp_path):
    network = nn.ModuleDict(
        {
            "model0": nn.ModuleDict({"conv1": nn.Linear(2, 3)}),
            "m1": nn.ModuleDict({"c2": nn.Linear(3, 1)}),
        }
    )
    expected = {name: torch.rand_like(value) for name, value in copied(network).items()}
    without = {name.partition(".")[2]: value for name, value in expected.items()}
    zipped(without, tmp_path / "body_pose_model.pth")
    load(network, "openpose_body", tmp_path / "body_pose_model.pth")
    assert same(copied(network), expected)


def test_counters_of_batch_norm_may_be_missing(tmp_path):
    tensors = copied(randomise(MLSD()))
    expected = {n: v for n, v in tensors.items() if not n.endswith("num_batches_tracked")}
    zipped(expected, tmp_path / "mlsd.pth")
    network = MLSD()
    load(network, "mlsd", tmp_path / "mlsd.pth")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in expected.items())


def refused(path: Path, network: nn.Module, key: str) -> str:
    """The message; the network must be as it was before."""
    before = copied(network)
    with pytest.raises(WrongWeights) as caught:
        load(network, key, path)
    assert same(copied(network), before)
    assert WEIGHTS[key].name in str(caught.value)
    assert WEIGHTS[key].url in str(caught.value)
    return str(caught.value)


def test_another_annotators_file_is_named(tmp_path):
    zipped(copied(random_lineart()), tmp_path / "mlsd_large_512_fp32.pth")
    message = refused(tmp_path / "mlsd_large_512_fp32.pth", MLSD(), "mlsd")
    assert "is not the published mlsd_large_512_fp32.pth: 305 of 305 tensors are missing" in message
    assert "It looks like sk_model.pth." in message


def test_missing_unknown_and_misshapen_tensors_are_told_before_any_is_loaded(tmp_path):
    tensors = copied(random_lineart())
    tensors["extra.weight"] = tensors.pop("model4.1.bias")
    tensors["model0.1.weight"] = torch.zeros(64, 3, 3, 3)
    zipped(tensors, tmp_path / "sk_model.pth")
    message = refused(tmp_path / "sk_model.pth", LineArt(), "lineart")
    assert "1 of 24 tensors are missing (such as model4.1.bias)" in message
    assert "1 of 24 tensors are unknown (such as extra.weight)" in message
    assert "model0.1.weight is (64, 3, 3, 3) instead of (64, 3, 7, 7)" in message


@pytest.mark.parametrize("save", [zipped, pickled, save_file])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, save, share):
    path = tmp_path / "sk_model.pth"
    save(copied(random_lineart()), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "sk_model.pth" in refused(path, LineArt(), "lineart").split(". ")[0]


def test_a_login_page_is_called_a_web_page(tmp_path):
    path = tmp_path / "sk_model.pth"
    path.write_text("<!DOCTYPE html><html>Log in</html>")
    assert "sk_model.pth is a web page" in refused(path, LineArt(), "lineart")


def test_a_file_that_is_no_checkpoint_is_not_sent_to_the_controlnet_folder(tmp_path):
    path = tmp_path / "sk_model.pth"
    path.write_bytes(b"nonsense" * 100)
    message = refused(path, LineArt(), "lineart")
    assert "no checkpoint" in message
    assert "models/controlnet" not in message


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was_run"),))


def test_no_code_of_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sk_model.pth"
    path.write_bytes(pickle.dumps({"weight": Evil()}))
    refused(path, LineArt(), "lineart")
    assert not (tmp_path / "was_run").exists()


# Downloads


class Server:
    """A local web server for one body of bytes, with the faults that a test asks for."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.ranges = True  # it can send a part
        self.breaks_after: int | None = None  # bytes, once
        self.status = 200
        self.asked: list[str | None] = []  # the Range of every request
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                server.asked.append(wanted)
                start = int(wanted[6:-1]) if wanted and server.ranges else 0
                size = len(server.body)
                if server.status != 200:
                    self.send_error(server.status)
                    return
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.send_header("Content-Length", str(size - start))
                self.end_headers()
                stop, server.breaks_after = server.breaks_after, None
                self.wfile.write(server.body[start:stop])

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/file.pth"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    """A server of a megabyte; WEIGHTS["test"] is that file."""
    body = torch.randint(0, 256, (1 << 20,), dtype=torch.uint8).numpy().tobytes()
    running = Server(body)
    digest = hashlib.sha256(body).hexdigest()
    file = WeightFile("file.pth", running.url, len(body), digest, "MIT", True)
    folder = replace(
        file, name="model", files=(replace(file, name="a.bin"), replace(file, name="b.json"))
    )
    monkeypatch.setattr(weights, "WEIGHTS", {"test": file, "folder": folder})
    monkeypatch.setattr(downloads, "CHUNK", 1 << 16)
    yield running
    running.http.shutdown()
    running.http.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_download_is_the_file_and_leaves_nothing_else(server, tmp_path):
    path = download("test", tmp_path / "new")
    assert path == tmp_path / "new" / "file.pth"
    assert path.read_bytes() == server.body
    assert names(tmp_path / "new") == ["file.pth"]


def test_progress_counts_bytes_up_to_the_size(server, tmp_path):
    seen: list[tuple[int, int | None]] = []
    download("test", tmp_path, lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 1 << 20)
    assert seen[-1] == (1 << 20, 1 << 20)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) > 10


def test_other_bytes_than_expected_are_thrown_away(server, tmp_path):
    server.body = b"<html>" + server.body
    with pytest.raises(DownloadFailed, match=r"file\.pth.*sha256 [0-9a-f]{64}, expected"):
        download("test", tmp_path)
    assert names(tmp_path) == []


def test_leading_digits_of_the_checksum_are_compared_too(server, tmp_path, monkeypatch):
    file = weights.WEIGHTS["test"]
    monkeypatch.setitem(weights.WEIGHTS, "test", replace(file, sha256=file.sha256[:8]))
    assert download("test", tmp_path).exists()
    monkeypatch.setitem(weights.WEIGHTS, "test", replace(file, sha256="00000000"))
    with pytest.raises(DownloadFailed, match="expected 00000000"):
        download("test", tmp_path / "other")


class CancelError(Exception):
    pass


def cancel_halfway(done: int, total: int | None) -> None:
    if total and done > total / 2:
        raise CancelError


def test_a_cancelled_download_is_continued_where_it_stopped(server, tmp_path):
    with pytest.raises(CancelError):
        download("test", tmp_path, cancel_halfway)
    assert names(tmp_path) == ["file.pth.part"]
    have = (tmp_path / "file.pth.part").stat().st_size
    seen: list[int] = []
    path = download("test", tmp_path, lambda done, total: seen.append(done))
    assert path.read_bytes() == server.body
    assert server.asked == [None, f"bytes={have}-"]
    assert seen[0] == have > 1 << 19
    assert names(tmp_path) == ["file.pth"]


def test_a_download_begins_again_where_the_server_sends_no_parts(server, tmp_path):
    with pytest.raises(CancelError):
        download("test", tmp_path, cancel_halfway)
    server.ranges = False
    assert download("test", tmp_path).read_bytes() == server.body


def test_a_broken_connection_says_how_far_it_came_and_can_be_continued(server, tmp_path):
    server.breaks_after = 300_000
    with pytest.raises(DownloadFailed, match=r"after 300000 of 1048576 bytes.*Run it again"):
        download("test", tmp_path)
    assert names(tmp_path) == ["file.pth.part"]
    assert download("test", tmp_path).read_bytes() == server.body
    assert server.asked == [None, "bytes=300000-"]


def test_a_part_that_is_whole_already_is_only_checked(server, tmp_path):
    (tmp_path / "file.pth.part").write_bytes(server.body)
    assert download("test", tmp_path).read_bytes() == server.body


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "file.pth.part").write_bytes(server.body + b"more")
    assert download("test", tmp_path).read_bytes() == server.body


def test_a_part_of_another_file_is_found_out_and_the_next_try_works(server, tmp_path):
    (tmp_path / "file.pth.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadFailed, match="sha256"):
        download("test", tmp_path)
    assert download("test", tmp_path).read_bytes() == server.body


def test_a_file_that_is_there_is_never_overwritten(server, tmp_path):
    (tmp_path / "file.pth").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not overwritten"):
        download("test", tmp_path)
    assert (tmp_path / "file.pth").read_bytes() == b"mine"
    assert server.asked == []


def test_a_file_that_appears_meanwhile_is_not_overwritten(server, tmp_path):
    def put_one_there(done: int, total: int | None) -> None:
        (tmp_path / "file.pth").write_bytes(b"mine")

    with pytest.raises(FileExistsError, match="not overwritten"):
        download("test", tmp_path, put_one_there)
    assert (tmp_path / "file.pth").read_bytes() == b"mine"


def test_an_answer_of_the_server_is_passed_on(server, tmp_path):
    server.status = 404
    with pytest.raises(DownloadFailed, match=r"file\.pth.*answers 404.*by hand"):
        download("test", tmp_path)
    assert names(tmp_path) == []


def test_no_connection_says_so(server, tmp_path, monkeypatch):
    closed = replace(weights.WEIGHTS["test"], url="http://127.0.0.1:9/file.pth")
    monkeypatch.setitem(weights.WEIGHTS, "test", closed)
    with pytest.raises(DownloadFailed, match=r"file\.pth could not be downloaded.*connection"):
        download("test", tmp_path)


def test_a_folder_is_fetched_file_by_file_and_keeps_what_it_has(server, tmp_path, monkeypatch):
    folder = weights.WEIGHTS["folder"]
    monkeypatch.setitem(weights.WEIGHTS, "folder", replace(folder, size=2 << 20))
    seen: list[tuple[int, int | None]] = []
    path = download("folder", tmp_path, lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "model"
    assert names(path) == ["a.bin", "b.json"]
    assert seen[-1] == (2 << 20, 2 << 20)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert find("folder", [tmp_path]) == path

    (path / "b.json").unlink()
    (path / "a.bin").write_bytes(b"mine")
    download("folder", tmp_path)
    assert (path / "a.bin").read_bytes() == b"mine"
    assert (path / "b.json").read_bytes() == server.body
