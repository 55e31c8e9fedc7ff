"""What the tests of Consistency Guidance share: small decoders, and a look at x0 on its way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from controlnet_pp.tests.host.harness import TINY, Host, prompt, randomise
from torch import Tensor

KL = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3}
KL |= {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": []}
KL |= {"dropout": 0.0}


def vae(host: Host, kind: str = "kl", dtype: torch.dtype = torch.float32) -> Any:
    """A VAE with random weights as a loader node makes it, in inference mode."""
    return host.once(("vae", kind, dtype), lambda: _vae(kind, dtype))


def _vae(kind: str, dtype: torch.dtype) -> Any:
    from comfy import sd
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.taesd.taesd import TAESD

    with torch.inference_mode():
        if kind == "taesd":
            weights = randomise(TAESD(), seed=5).state_dict()
            return sd.VAE(sd=weights, dtype=dtype)
        params = {"ddconfig": KL, "embed_dim": 4}
        weights = randomise(AutoencoderKL(**params), seed=4).state_dict()
        made = sd.VAE(sd=weights, config={"params": params}, dtype=dtype)
        made.first_stage_model.load_state_dict(weights)
        return made


def edges(seed: int = 8, side: int = 64, batch: int = 1) -> Tensor:
    """A binary edge map as an IMAGE: rectangles of random places."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(batch, side, side, 3)
    for one in image:
        y, x = torch.randint(2, side // 2, (2,), generator=generator).tolist()
        height, width = torch.randint(8, side // 2 - 2, (2,), generator=generator).tolist()
        one[y : y + height, [x, x + width]] = 1.0
        one[[y, y + height], x : x + width] = 1.0
    return image


def guide(host: Host, model: Any, decoder: Any, condition: Tensor, **changes: Any) -> Any:
    """The model through Consistency Guidance, acting at every step unless told otherwise."""
    inputs = {
        "model": model,
        "vae": decoder,
        "condition": condition,
        "kind": "canny (ControlNet++)",
        "strength": 1.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "every": 1,
        "bound": 0.1,
        "full_gradient": False,
    }
    (guided,) = host.call("CNPP_ConsistencyGuidance", **inputs | changes)
    return guided


def noted(model: Any) -> tuple[Any, list[SimpleNamespace]]:
    """A copy of a model, and a list that gets every x0 (and its sigma) at this place."""
    seen: list[SimpleNamespace] = []

    def note(args: dict) -> Tensor:
        x0 = args["denoised"]
        seen.append(SimpleNamespace(x0=x0.clone(), sigma=float(args["sigma"][0])))
        return x0

    twin = model.clone()
    twin.set_model_sampler_post_cfg_function(note)
    return twin, seen


def sample(host: Host, model: Any, side: int = 8, batch: int = 1, **changes: Any) -> Tensor:
    """A latent of a random model."""
    latent = changes.pop("latent", torch.zeros(batch, 4, side, side))
    return host.sample(model, prompt(TINY, 1), prompt(TINY, 2), latent=latent, **changes)


def around(
    host: Host, decoder: Any, condition: Tensor, sampling: dict[str, Any] | None = None, **node: Any
) -> tuple[list, list, Tensor]:
    """x0 before and behind the guidance at every step, and the latent."""
    model, before = noted(host.model(TINY))
    guided = guide(host, model, decoder, condition, **node)
    guided, behind = noted(guided)
    out = sample(host, guided, **(sampling or {}))
    return before, behind, out


def by_hand(
    host: Host,
    decoder: Any,
    x0: Tensor,
    condition: Tensor,
    *,
    mask: Tensor | None = None,
    strength: float = 1.0,
    bound: float = 0.1,
) -> Tensor:
    """What the core makes of an x0, without any of the host's glue."""
    core = host.pack("cnpp_core.consistency.steering.guidance")
    losses = host.pack("cnpp_core.consistency.losses").line_loss
    strength_of = host.pack("annotators.canny").canny_strength
    with torch.inference_mode(False):
        import copy

        network = copy.deepcopy(decoder.first_stage_model).float()
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()
        wanted = condition[..., :1].movedim(-1, 1).clone() > 0.5

        def loss(point: Tensor) -> Tensor:
            picture = network.decode(point / 0.18215) / 2 + 0.5
            picture = picture + (picture.clamp(0, 1) - picture).detach()
            return losses(strength_of(picture), wanted, mask)

        settings = core.GuidanceSettings(strength, bound)
        return core.corrected(x0.clone(), loss, settings).x0
