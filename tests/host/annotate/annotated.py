"""What the tests of annotators in the host share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from controlnet_pp.tests.host.harness import Host
from torch import Tensor


def put(file: Path, folder: Path) -> Path:
    """A copy of a file in a folder that is made for it."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(file, folder))


def soft_edge(host: Host, image: Tensor, **options: Any) -> tuple:
    """What the node Soft Edge gives, at the size of the image unless told otherwise."""
    options = {"safe": False, "resolution": 0} | options
    return host.call("CNPP_SoftEdge", image=image, **options)


def patcher_of(host: Host, key: str) -> Any:
    """The host's ModelPatcher of the network with the weights of this key."""
    known = host.pack("nodes.host.annotate.networks")._patchers
    return next(patcher for what, patcher in known.items() if key in what)
