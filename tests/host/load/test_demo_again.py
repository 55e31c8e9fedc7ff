"""The demo model where the host needs its weights a second time: training, hooks, compiling."""

from __future__ import annotations

import pytest
import torch


def weights_of(model):
    return model.model.diffusion_model.state_dict()


def test_a_clone_of_its_own_has_the_same_weights_and_shares_none(host, parts):
    model = parts[0]
    if not hasattr(model, "deepclone_multigpu"):
        pytest.skip("this ComfyUI makes no such clones")
    with torch.inference_mode(False):
        twin = model.clone(force_deepcopy=True)
    ours, theirs = weights_of(model), weights_of(twin)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not {w.data_ptr() for w in ours.values()} & {w.data_ptr() for w in theirs.values()}
    assert not any(w.is_inference() for w in twin.model.diffusion_model.parameters())


def test_a_clone_of_a_clone_can_be_made_again(host, parts):
    if not hasattr(parts[0], "deepclone_multigpu"):
        pytest.skip("this ComfyUI makes no such clones")
    factory, arguments = parts[0].clone().cached_patcher_init
    again = factory(*arguments, disable_dynamic=True)
    assert not again.is_dynamic()
    assert again.cached_patcher_init == (factory, arguments)


def test_a_lora_can_be_trained_on_it(host, parts):
    nodes = pytest.importorskip("comfy_extras.nodes_train")
    model, clip, vae = parts[:3]
    if not hasattr(model, "deepclone_multigpu"):
        pytest.skip("this ComfyUI trains on the very weights that it is given")
    (latent,) = host.call("VAEEncode", pixels=parts[4], vae=vae)
    (positive,) = host.call("CLIPTextEncode", clip=clip, text=parts[5])
    schema = nodes.TrainLoraNode.define_schema()
    chosen = {"steps": 2, "rank": 1, "training_dtype": "none", "lora_dtype": "fp32"}
    chosen |= {"existing_lora": "[None]", "gradient_checkpointing": False, "seed": 1}
    inputs = {i.id: [chosen.get(i.id, i.default)] for i in schema.inputs if hasattr(i, "default")}
    inputs |= {"model": [model], "latents": [latent], "positive": [positive]}
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    with torch.inference_mode():
        lora, losses, steps = nodes.TrainLoraNode.execute(**inputs).result[-3:]
    assert len(losses["loss"]) == steps == 2
    assert all(torch.isfinite(torch.tensor(losses["loss"])))
    assert any(value.abs().max() > 0 for value in lora.values())
    assert all(torch.equal(before[name], weight) for name, weight in weights_of(model).items())
