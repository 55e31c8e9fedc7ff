"""Fetch one file over HTTP: resumable, checked, never over something that is there already."""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path

log = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]  # bytes so far, bytes in all where known
CHUNK = 1 << 18  # bytes between two calls of progress: often enough to interrupt at once
TIMEOUT = 30  # seconds without a byte
TRY_AGAIN = "Run it again: what is there already is kept and the rest is fetched."


def fetch(url: str, target: Path, sha256: str = "", progress: Progress | None = None) -> Path:
    """Download `url` to `target` by way of `target`.part, and return `target`.

    A .part that is there is continued if the server can, otherwise begun again. sha256: the leading
    hex digits that are known, "" for none. What `progress` raises stops the download and keeps the
    .part. Raises FileExistsError instead of overwriting, RuntimeError for everything else: what
    happened and what to do.
    """
    if target.exists():
        raise FileExistsError(
            f"{target} is there already and is not overwritten. Delete or rename it first."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    log.info("downloading %s to %s", url, target)
    try:
        _receive(url, part, progress or (lambda done, total: None))
    except urllib.error.HTTPError as error:
        raise RuntimeError(
            f"{target.name} could not be downloaded: {url} answers {error.code} {error.reason}. "
            f"Get the file by hand and put it into {target.parent}."
        ) from error
    except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError) as e:
        raise RuntimeError(
            f"{target.name} could not be downloaded from {url} ({e or type(e).__name__}). "
            f"Check the connection. {TRY_AGAIN}"
        ) from e
    _check(part, target.name, url, sha256)
    if target.exists():
        raise FileExistsError(
            f"{target} appeared during its download and is not overwritten; delete {part.name}."
        )
    return part.rename(target)


def _receive(url: str, part: Path, progress: Progress) -> None:
    """Append to the .part what it lacks, or write it from the beginning."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if not (have and error.code == 416):
            raise
        # Nothing lies behind the last byte: the .part is whole, or not of this file.
        if _total(error.headers) == have:
            return
        part.unlink()
        return _receive(url, part, progress)
    with response:
        resumed = response.status == 206 and _start(response.headers) == have
        total = _total(response.headers)
        done = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            progress(done, total)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    if total is not None and done != total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _start(headers: Message) -> int | None:
    """First byte of a "Content-Range: bytes 5-9/10"."""
    first = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else None


def _total(headers: Message) -> int | None:
    """Bytes of the whole file, wherever the answer begins."""
    content_range = headers.get("Content-Range")
    text = content_range.rpartition("/")[2] if content_range else headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _check(part: Path, name: str, url: str, sha256: str) -> None:
    if not sha256:
        return
    with part.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if not digest.hexdigest().startswith(sha256):
        size = part.stat().st_size
        part.unlink()
        raise RuntimeError(
            f"What {url} sent is not {name}: its {size} bytes have sha256 {digest.hexdigest()}, "
            f"expected {sha256}. It was deleted. Try again, or get the file by hand."
        )
