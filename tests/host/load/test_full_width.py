"""A ControlNet and a UNet of SD1.5 at full width, from a file like the released ControlNet++ ones.

About 7 GB of memory, so it runs once: not again for the versions in folders ComfyUI-<version>.
"""

from __future__ import annotations

import gc
import os

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY_SD15, picture, prompt
from safetensors.torch import save_file

SD15 = TINY_SD15 | {"model_channels": 320, "context_dim": 768}
NEEDED_GB = 9


@pytest.fixture(scope="module")
def released(host):
    """(ours, theirs, report) from one fp16 file in the diffusers layout."""
    if host.root.name.startswith("ComfyUI-"):
        pytest.skip("runs in the main ComfyUI only")
    import psutil  # ComfyUI brings it

    free = psutil.virtual_memory().available / 2**30
    if free < NEEDED_GB:
        pytest.skip(f"needs {NEEDED_GB} GB of free memory, {free:.1f} are there")
    threads = torch.get_num_threads()
    # Half of them: another version may be tested at the same time.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    checkpoint = host.pack("cnpp_core.checkpoint")
    weights = host.network(SD15).half().state_dict()
    config = checkpoint.read_config(weights)
    path = host.controlnets / "released_sd15_fp16.safetensors"
    save_file(checkpoint.to_diffusers(weights, config), path)
    del weights
    gc.collect()
    ours, report = host.call("CNPP_LoadControlNet", control_net_name=path.name, dtype="auto")
    (theirs,) = host.call("ControlNetLoader", control_net_name=path.name)
    yield ours, theirs, report
    torch.set_num_threads(threads)
    host.forget()
    path.unlink()
    gc.collect()


def applied(host, node, control, **extra):
    return host.call(
        node,
        positive=prompt(SD15, 1, tokens=77),
        negative=prompt(SD15, 2, tokens=77),
        control_net=control,
        image=picture(),
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
        **extra,
    )


def test_the_report_of_a_released_file(released):
    _, _, report = released
    assert "SD1.5 ControlNet, 13 blocks" in report
    assert "361,279,120 parameters in 340 tensors" in report
    assert "diffusers, stored as fp16, loaded as fp32" in report


def test_neutral_equals_the_host_at_full_width(host, released):
    ours, theirs, _ = released
    model = host.model(SD15)
    mine = host.sample(model, *applied(host, "CNPP_Apply", ours), steps=2)
    wanted = host.sample(model, *applied(host, "ControlNetApplyAdvanced", theirs), steps=2)
    assert torch.isfinite(mine).all()
    assert (mine - wanted).abs().max() == 0.0


def test_one_block_alone_equals_the_host_with_the_others_removed_at_full_width(host, released):
    ours, theirs, _ = released
    model = host.model(SD15)
    positive, negative = applied(host, "ControlNetApplyAdvanced", theirs)
    control = positive[0][1]["control"]
    original = control.get_control

    def only_block_8(*args):
        blocks = original(*args)["output"]
        return {
            "input": [],
            "output": [b if i == 8 else None for i, b in enumerate(blocks)],
            "middle": [None],
        }

    control.get_control = only_block_8
    wanted = host.sample(model, positive, negative, steps=1)
    (scales,) = host.call(
        "CNPP_BlockScalesSD15",
        **{f"in_{i}": float(i == 8) for i in range(12)},
        middle=0.0,
    )
    mine = host.sample(model, *applied(host, "CNPP_Apply", ours, scales=scales), steps=1)
    without = host.sample(model, prompt(SD15, 1, tokens=77), prompt(SD15, 2, tokens=77), steps=1)
    assert (mine - wanted).abs().max() == 0.0
    assert (mine - without).abs().max() > 0.01


def test_an_sdxl_prompt_is_refused_at_full_width(host, released):
    ours, _, _ = released
    foreign = [[torch.zeros(1, 77, 2048), {}]]
    with pytest.raises(ValueError, match=r"SD1\.5 .*SDXL"):
        host.call(
            "CNPP_Apply", positive=foreign, negative=foreign, control_net=ours,
            image=picture(), strength=1.0, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
