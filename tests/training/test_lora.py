"""Low-rank adaptation: what it changes, and what its file says."""

import copy
from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.network.config import NetworkConfig
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.cnpp_core.training.lora import add_lora, apply_lora, lora_state_dict

CONFIG = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(0, 1),
    context_dim=16,
)
INPUTS = (torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 3, 16))


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return UNet(CONFIG)


def moved(network):
    """With every `up` away from zero, as training leaves it."""
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.02)
    return network


@torch.no_grad()
def test_a_fresh_lora_changes_nothing_and_alone_is_trained(plain):
    adapted = copy.deepcopy(plain)
    add_lora(adapted, 4)
    assert torch.equal(adapted(*INPUTS), plain(*INPUTS))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.rpartition(".")[2] in ("up", "down") for name in trained)


@torch.no_grad()
def test_the_file_added_to_the_weights_is_the_trained_network(plain):
    adapted = copy.deepcopy(plain)
    add_lora(adapted, 4)
    wanted = moved(adapted)(*INPUTS)
    file = lora_state_dict(adapted)
    layers = {key.rpartition(".weight")[0] for key in plain.state_dict() if "weight" in key}
    names = {"lora_unet_" + layer.replace(".", "_"): layer for layer in layers}
    for key in [key for key in file if key.endswith(".lora_up.weight")]:
        base = key.removesuffix(".lora_up.weight")
        up, down = file[key], file[f"{base}.lora_down.weight"]
        weight = plain.get_submodule(names[base]).weight
        rank = up.shape[1]
        assert down.shape == (rank, *weight.shape[1:])
        assert file[f"{base}.alpha"] == rank <= 4
        weight += (up.flatten(1) @ down.flatten(1)).view_as(weight)
    assert torch.allclose(plain(*INPUTS), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_file_is_applied_to_a_plain_network(plain):
    adapted = copy.deepcopy(plain)
    add_lora(adapted, 4)
    wanted = moved(adapted)(*INPUTS)
    file = lora_state_dict(adapted)
    apply_lora(plain, file)
    assert torch.allclose(plain(*INPUTS), wanted, rtol=1e-4, atol=1e-5)


def test_a_file_of_another_network_is_refused(plain):
    adapted = copy.deepcopy(plain)
    add_lora(adapted, 4)
    file = lora_state_dict(adapted)
    wider = UNet(replace(CONFIG, model_channels=64))
    with pytest.raises(ValueError, match="trained for another model"):
        apply_lora(wider, file)
    with pytest.raises(ValueError, match=r"lora_unet_elsewhere.* no such layer"):
        apply_lora(plain, {k.replace("time_embed", "elsewhere"): w for k, w in file.items()})


def test_a_rank_of_nothing_is_refused(plain):
    with pytest.raises(ValueError, match="rank of a LoRA is 0"):
        add_lora(plain, 0)
