"""Guidance through trained networks: HED in the picture that a trained TAESD decodes."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY
from controlnet_pp.tests.host.steering.guided import guide, sample
from controlnet_pp.tests.trained import trained_file
from safetensors.torch import load_file

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def taesd():
    """The VAE that Load VAE makes of the two files."""
    from comfy import sd

    weights = {}
    for part in ("encoder", "decoder"):
        file = load_file(trained_file(f"taesd_{part}.safetensors"))
        weights |= {f"taesd_{part}.{name}": tensor for name, tensor in file.items()}
    weights["vae_scale"] = torch.tensor(0.18215)
    weights["vae_shift"] = torch.tensor(0.0)
    return sd.VAE(sd=weights)


@pytest.fixture
def soft_edge(host, monkeypatch):
    """The annotator that the node gives."""
    import folder_paths

    folder = trained_file("ControlNetHED.safetensors").parent
    places = ([str(folder)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "annotators", places)
    image, _ = host.pack("nodes.host.load.demo").example_picture(1)
    return host.call("CNPP_SoftEdge", image=image, safe=False, resolution=0)


@pytest.mark.parametrize("full_gradient", [False, True])
def test_the_picture_comes_nearer_to_the_edges_of_another(host, taesd, soft_edge, full_gradient):
    edges, annotator = soft_edge
    model = host.model(TINY)
    guided = guide(
        host,
        model,
        taesd,
        edges,
        kind="softedge",
        annotator=annotator,
        bound=0.4,
        full_gradient=full_gradient,
    )

    def loss(latent: torch.Tensor) -> float:
        assert latent.isfinite().all()
        picture = host.call("VAEDecode", vae=taesd, samples={"samples": latent})[0]
        found = annotator(picture.movedim(-1, 1))
        return (found - edges.movedim(-1, 1)[:, :1]).square().mean().item()

    plain, followed = (loss(sample(host, m, side=16, steps=6)) for m in (model, guided))
    assert followed < 0.8 * plain
