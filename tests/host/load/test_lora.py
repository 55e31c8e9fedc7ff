"""A LoRA file of ours in the host's own loader."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def lora(host):
    """A file name, and the demo UNet with that LoRA in its weights."""
    import folder_paths

    lora, demo = host.pack("cnpp_core.training.lora"), host.pack("demo.model")
    adapted, plain = demo.load_demo().unet, demo.load_demo().unet
    lora.add_lora(adapted, 4)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.05)
    file = lora.lora_state_dict(adapted)
    lora.apply_lora(plain, file)
    folder = host.folder / "loras"
    folder.mkdir(exist_ok=True)
    save_file(file, folder / "few_steps.safetensors")
    folder_paths.add_model_folder_path("loras", str(folder))
    return "few_steps.safetensors", plain


def test_the_host_adds_a_lora_of_ours_to_every_layer(host, lora, caplog):
    name, adapted = lora
    (model, *_) = host.call("CNPP_DemoModel", example=3)
    (changed,) = host.call("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)
    assert "lora key not loaded" not in caplog.text
    unpatched, weights = model.model.diffusion_model, adapted.state_dict()
    patched = {key.removeprefix("diffusion_model.") for key in changed.patches}
    layers = {key for key, weight in weights.items() if key.endswith("weight") and weight.ndim > 1}
    assert patched == layers
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([500.0])
    context = torch.randn(1, 12, 64)
    with torch.inference_mode():
        plain = unpatched(x, t, context=context)
        changed.patch_model()
        try:
            found = changed.model.diffusion_model(x, t, context=context)
        finally:
            changed.unpatch_model()
        wanted = adapted(x, t, context)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert (plain - wanted).abs().max() > 0.01
