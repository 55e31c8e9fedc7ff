"""Weight files are fetched whole or not at all, from a local web server with faults."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from controlnet_pp.annotators import download as downloads
from controlnet_pp.annotators import weights
from controlnet_pp.annotators.catalogue import WeightFile
from controlnet_pp.annotators.weights import download, find


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
    with pytest.raises(RuntimeError, match=r"file\.pth.*sha256 [0-9a-f]{64}, expected"):
        download("test", tmp_path)
    assert names(tmp_path) == []


def test_leading_digits_of_the_checksum_are_compared_too(server, tmp_path, monkeypatch):
    file = weights.WEIGHTS["test"]
    monkeypatch.setitem(weights.WEIGHTS, "test", replace(file, sha256=file.sha256[:8]))
    assert download("test", tmp_path).exists()
    monkeypatch.setitem(weights.WEIGHTS, "test", replace(file, sha256="00000000"))
    with pytest.raises(RuntimeError, match="expected 00000000"):
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
    with pytest.raises(RuntimeError, match=r"after 300000 of 1048576 bytes.*Run it again"):
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
    with pytest.raises(RuntimeError, match="sha256"):
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
    with pytest.raises(RuntimeError, match=r"file\.pth.*answers 404.*by hand"):
        download("test", tmp_path)
    assert names(tmp_path) == []


def test_no_connection_says_so(server, tmp_path, monkeypatch):
    closed = replace(weights.WEIGHTS["test"], url="http://127.0.0.1:9/file.pth")
    monkeypatch.setitem(weights.WEIGHTS, "test", closed)
    with pytest.raises(RuntimeError, match=r"file\.pth could not be downloaded.*connection"):
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
