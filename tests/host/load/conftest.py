"""The demo model twice: in the host's types, and the core's own."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def parts(host):
    """MODEL, CLIP, VAE, CONTROL_NET, picture, caption, annotator."""
    return host.call("CNPP_DemoModel", example=3)


@pytest.fixture(scope="module")
def demo(host):
    return host.pack("demo.model").load_demo()
