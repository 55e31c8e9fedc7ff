"""What users of ControlNet packs complain about most, class by class, as it is here.

The classes are counted from the issue trackers of ComfyUI, Advanced-ControlNet and the webui
extension; the numbers in brackets are examples.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import embedded_hints, fitted, in_area, masked, mode
from controlnet_pp.tests.host.harness import TINY, TINY_SD15, TINY_XL, apply, picture, prompt
from controlnet_pp.tests.host.residuals import captured, evaluations

# 1. The network of another family gives a matrix size inside KSampler (ComfyUI 7556, 6763, 8463).


@pytest.mark.parametrize("loader", ["ours", "theirs"])
def test_wrong_family_is_told_by_name_before_the_first_step(host, loader):
    ours, theirs = host.pair(TINY_XL)
    control = ours if loader == "ours" else theirs
    conditioning = apply(host, mode(host, control), TINY_XL)
    model = host.model(TINY_SD15)
    told = pytest.raises(ValueError, match=r"The ControlNet is .* but the model is .*Load")
    with evaluations(model.model.diffusion_model) as steps, told:
        host.sample(model, *conditioning)
    assert steps == []


# 2. Control is lost without a word: a shape that does not fit is logged and dropped (ComfyUI 3372,
# 11382, Advanced-ControlNet 212).


@pytest.mark.parametrize("shape", [(96, 200), (513, 77), (8, 8), (1, 1)])
def test_silently_lost_control_every_block_arrives_for_any_hint_size(host, shape):
    ours, _ = host.pair(TINY_SD15)
    image = picture(height=shape[0], width=shape[1])
    for call in captured(host, host.model(TINY_SD15), *apply(host, ours, TINY_SD15, image=image)):
        blocks = [*call["control"]["output"], *call["control"]["middle"]]
        assert len(blocks) == 13
        assert all(block is not None and block.any() for block in blocks)


def test_silently_lost_control_a_residual_that_does_not_fit_stops_the_run(host):
    ours, _ = host.pair(TINY)

    def narrower(_module, _inputs, output):
        return output[..., 1:]

    handle = ours.control_model.zero_convs[1].register_forward_hook(narrower)
    try:
        with pytest.raises(ValueError, match="residual of input block 1 has shape"):
            host.sample(host.model(TINY), *apply(host, mode(host, ours)))
    finally:
        handle.remove()


# 3. Areas: the hint is not cropped to the area, and resized at every step (ComfyUI 2352, 2540).


def test_area_conditioning_crops_the_hint_and_prepares_it_once(host):
    ours, _ = host.pair(TINY)
    control = fitted(host, ours, follow_area=True)
    positive = []
    for i, (width, x) in enumerate(((48, 0), (80, 48))):
        positive += in_area(host, prompt(TINY, i), width, 128, x)
    with embedded_hints(ours.control_model) as hints:
        host.sample(host.model(TINY), *apply(host, control, positive=positive), steps=6)
    image = picture()[0].movedim(-1, 0)
    parts = {hint.shape[-1]: hint[0] for hint in hints}
    assert len(hints) == len(parts) == 3, "two areas and the whole, each once in six steps"
    assert torch.equal(parts[48], image[..., :48])
    assert torch.equal(parts[80], image[..., 48:])


# 4. Broken by an update of the host, because its code was copied or replaced (Advanced-ControlNet
# 20, 38, 124, 191).


def test_host_updates_no_function_of_the_host_is_replaced_by_the_pack(host):
    import comfy.controlnet
    import comfy.ldm.modules.diffusionmodules.openaimodel as unet
    import comfy.samplers

    for module in (comfy.controlnet, comfy.samplers, unet):
        for name, value in inspect.getmembers(module):
            if inspect.isfunction(value) or inspect.isclass(value):
                home = value.__module__ or ""  # torch.compile leaves functions of no module behind
                assert not home.startswith(host._package), name


def test_host_updates_the_hosts_own_get_control_does_the_work(host, monkeypatch):
    import comfy.controlnet

    called = []
    original = comfy.controlnet.ControlNet.get_control

    def get_control(self, *args, **kwargs):
        called.append(type(self))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(comfy.controlnet.ControlNet, "get_control", get_control)
    ours, _ = host.pair(TINY)
    host.sample(host.model(TINY), *apply(host, ours), steps=2)
    assert called == [comfy.controlnet.ControlNet] * 2


def test_host_updates_a_method_that_the_host_adds_is_inherited(host, monkeypatch):
    from comfy.controlnet import ControlBase

    monkeypatch.setattr(ControlBase, "invented_later", lambda self: self.strength, raising=False)
    ours, _ = host.pair(TINY)
    (control, _) = (o["control"] for side in apply(host, ours) for _, o in side)
    assert control.invented_later() == 0.8


# 5. Devices and dtypes that do not match (Advanced-ControlNet 58, 136), and batches split in
# another way from one step to the next (Advanced-ControlNet 135, 165).


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_hints_and_masks_need_not_be_the_networks(host, dtype):
    ours, _ = host.pair(TINY)
    mask = torch.ones(1, 16, 16, dtype=dtype)
    mask[..., :8] = 0
    image = picture().to(dtype)

    def latent(mask, image):
        return host.sample(host.model(TINY), *apply(host, masked(host, ours, mask), image=image))

    wanted = latent(mask.float(), image.float())
    assert torch.equal(latent(mask, image), wanted)


def test_changing_batch_splits_each_image_keeps_its_own_hint(host, monkeypatch):
    """The host's own control cuts its hint down at the first small call, and never gets it back."""
    ours, _ = host.pair(TINY)
    images = picture(batch=3)
    latent = torch.zeros(3, 4, 16, 16)
    wanted = host.sample(host.model(TINY), *apply(host, ours, image=images), latent=latent, steps=5)
    calls = []

    def memory_required(shape, **_options):
        calls.append(1)
        return 1e20 if shape[0] > 3 and len(calls) % 3 else 0.0

    monkeypatch.setattr(host.model(TINY).model, "memory_required", memory_required)
    got = host.sample(host.model(TINY), *apply(host, ours, image=images), latent=latent, steps=5)
    assert (got - wanted).abs().max() < 5e-4 * wanted.abs().max()
