"""Control Speed's switches: order in memory, compiled, overlapped; weights that are cast."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import counted, speed
from controlnet_pp.tests.host.harness import TINY

LOOSE = 2e-4


def test_channels_last_changes_the_last_digits_at_most(host):
    ours, _ = host.pair(TINY)
    plain, _ = counted(host, ours)
    latent, _ = counted(host, speed(host, ours, channels_last=True))
    assert (latent - plain).abs().max() < LOOSE * plain.abs().max()


def test_channels_last_reaches_the_convolutions(host):
    ours, _ = host.pair(TINY)
    seen = []
    handle = ours.control_model.input_blocks[0][0].register_forward_hook(
        lambda _m, inputs, _o: seen.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    try:
        counted(host, speed(host, ours, channels_last=True), steps=1)
    finally:
        handle.remove()
    assert seen == [True]


def test_a_compiled_network_gives_the_same_and_stays_compiled(host, monkeypatch):
    """Through Dynamo, with the graph run as it is: building kernels is PyTorch's own affair."""
    compiled = []
    original = torch.compile

    def compile_quickly(module):
        compiled.append(module)
        return original(module, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_quickly)
    ours, _ = host.pair(TINY)
    plain, _ = counted(host, ours)
    shaped = speed(host, ours, compile=True)
    first, _ = counted(host, shaped)
    second, _ = counted(host, shaped)
    assert len(compiled) == 1
    assert (first - plain).abs().max() < LOOSE * plain.abs().max()
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp8_e4m3fn"])
def test_the_switches_work_with_weights_that_are_cast_on_the_fly(host, dtype):
    host.file(TINY, "tiny_cast.safetensors")
    control, _ = host.call(
        "CNPP_LoadControlNet", control_net_name="tiny_cast.safetensors", dtype=dtype
    )
    plain, _ = counted(host, control, steps=4)
    shaped = speed(host, control, reuse_every=2, lazy=True, channels_last=True)
    latent, rows = counted(host, shaped, steps=4)
    assert len(rows) == 2
    assert latent.isfinite().all()
    reused, _ = counted(host, speed(host, control, reuse_every=2), steps=4)
    assert (latent - reused).abs().max() < 0.02 * plain.abs().max()


def test_overlap_without_cuda_computes_at_once(host):
    ours, _ = host.pair(TINY)
    plain, _ = counted(host, ours)
    latent, rows = counted(host, speed(host, ours, overlap=True))
    assert torch.equal(latent, plain)
    assert rows == [2, 2, 2]


@pytest.mark.gpu
def test_overlap_on_cuda_is_the_same_bit_for_bit(host):
    ours, _ = host.pair(TINY)
    plain, _ = counted(host, ours)
    for _ in range(5):
        latent, _ = counted(host, speed(host, ours, overlap=True))
        assert torch.equal(latent, plain)
