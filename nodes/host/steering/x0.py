"""From the x0 of a sampling step to its picture, with or without a way back for gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy import model_management
from comfy.patcher_extension import WrappersMP
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn

from ..annotate.networks import allow_gradients, keep_while_loaded

# What a decoder's graph holds, as a multiple of what the host plans for decoding without one:
# counted at 256 to 1024 pixels, 2.6 to 2.7 for the VAE of SD and 0.25 for TAESD; rounded up for
# what is in the making.
GRAPH, GRAPH_OF_TAESD = 3.2, 0.4
PROBE = (0.0, 0.25, 0.5, 0.75)


class X0Decoder:
    """Decodes the x0 of a sampling with a VAE of the host; a tiny one (TAESD) will do.

    `loaded_with` has the host load it together with the model that samples. node: for messages.
    gradients: whether `differentiable` will be called. ValueError if the VAE makes no pictures.
    """

    def __init__(self, vae: Any, node: str = "", *, gradients: bool = False) -> None:
        self.vae = vae
        self._says = f"{node}: the" if node else "The"
        self._require_pictures()
        self.patcher = whole(vae.patcher, f"{self._says} VAE") if gradients else vae.patcher
        self._scale, self._offset = self._output_mapping()

    @property
    def module(self) -> Any:
        """The host's first_stage_model."""
        return self.patcher.model

    def require_latents_of(self, model: Any) -> None:
        """ValueError if the VAE can't decode what this ModelPatcher samples; names both."""
        latent = model.get_model_object("latent_format")
        kind = type(latent).__name__
        if getattr(latent, "latent_dimensions", 2) != 2:
            raise ValueError(
                f"{self._says} model samples {kind} latents, of videos or sound; only models of "
                "pictures can be steered. Take this node out."
            )
        if latent.latent_channels != self.vae.latent_channels:
            raise ValueError(
                f"{self._says} VAE decodes latents of {self.vae.latent_channels} channels, and the "
                f"model samples latents of {latent.latent_channels} ({kind}). Connect the VAE "
                "that belongs to the model, or its tiny decoder (TAESD)."
            )

    def graph_bytes(self, shape: Sequence[int]) -> int:
        """Memory that decoding latents of this shape takes with a graph, by rule of thumb."""
        factor = GRAPH_OF_TAESD if isinstance(self.module, TAESD) else GRAPH
        return int(factor * self.bytes(shape))

    def bytes(self, shape: Sequence[int]) -> int:
        """The same without a graph, as the host plans it."""
        # The host's figure is for one picture, whatever the batch.
        return shape[0] * int(self.vae.memory_used_decode(tuple(shape), self.vae.vae_dtype))

    def loaded_with(
        self,
        model: Any,
        key: str,
        patchers: Sequence[Any] = (),
        room: Callable[[Sequence[int]], int] | None = None,
    ) -> None:
        """Have the host load the decoder and `patchers` whenever this ModelPatcher samples.

        room: shape of the latents to the bytes that must be left then, in place of `bytes`; it may
        raise to refuse the sampling before it begins.
        """
        own = [self.patcher, *patchers]
        model.set_additional_models(key, own)

        def prepare(load: Any, patcher: Any, shape: Sequence[int], *rest: Any, **more: Any) -> Any:
            needed = (room or self.bytes)(shape)
            real_model, conds, models = load(patcher, shape, *rest, **more)
            # Once more, now with room for what steering takes: in one call, so that the host does
            # not put away one of them for the sake of another.
            model_management.load_models_gpu([patcher, *models], memory_required=needed)
            for one in own:
                ensure_loaded(one)
            keep_while_loaded(patchers)
            return real_model, conds, models

        model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, key, prepare)

    def pictures(self, x0: Tensor, model: Any) -> Tensor:
        """x0 (B, C, H, W) in the units of `model` -> (B, 3, h, w) in 0..1, float32; no graph."""
        with torch.no_grad():
            return self._decode(x0, model).clamp(0, 1)

    def differentiable(self, x0: Tensor, model: Any) -> Tensor:
        """`pictures` inside autograd, within `gradients_through`: (B, C, H, W) -> (B, 3, h, w).

        The clamp to 0..1 lets gradients pass, so that a pixel that is too bright can still darken.
        """
        decoded = self.unclamped(x0, model)
        return decoded + (decoded.clamp(0, 1) - decoded).detach()

    def unclamped(self, x0: Tensor, model: Any) -> Tensor:
        """As `differentiable`, with values outside of 0..1 as they are."""
        return sound_in_half(lambda latents: self._decode(latents, model))(x0)

    @contextmanager
    def gradients_through(self, model: Any) -> Iterator[None]:
        """Inside, weights and constants are fit for a graph and don't ask for gradients."""
        latent_format = model.latent_format
        for name, value in vars(latent_format).items():
            if isinstance(value, Tensor) and value.is_inference():
                setattr(latent_format, name, value.clone())
        with frozen(self.module):
            yield

    def _decode(self, x0: Tensor, model: Any) -> Tensor:
        ensure_loaded(self.patcher)
        latents = model.process_latent_out(x0).to(self.vae.device, self.vae.vae_dtype)
        decoded = self.module.decode(latents).float()
        return decoded * self._scale + self._offset

    def _require_pictures(self) -> None:
        vae = self.vae
        if getattr(vae, "first_stage_model", None) is None:
            raise ValueError(
                f"{self._says} VAE is empty: the checkpoint has none. Connect a VAE from Load VAE."
            )
        dimensions = getattr(vae, "latent_dim", 2)
        channels = getattr(vae, "output_channels", 3)
        flat = dimensions == 2 and getattr(vae, "extra_1d_channel", None) is None
        if not flat or channels != 3:
            raise ValueError(
                f"{self._says} VAE ({type(vae.first_stage_model).__name__}) makes no pictures: its "
                f"latents have {dimensions} dimension(s) and what it decodes {channels} channels, "
                "as for sound, videos or solids. Connect the VAE of a model of pictures."
            )

    def _output_mapping(self) -> tuple[float, float]:
        """Scale and offset that the host lays over what this VAE decodes.

        The host's own mapping writes into the result and clamps it, which would stop gradients.
        """
        probe = torch.tensor(PROBE).view(1, 1, 1, -1).repeat(1, 3, 1, 1)
        mapped = self.vae.process_output(probe)[0, 0, 0].double().tolist()
        scale = (mapped[2] - mapped[0]) / (PROBE[2] - PROBE[0])
        wanted = [mapped[0] + scale * value for value in PROBE]
        if max(abs(a - b) for a, b in zip(mapped, wanted, strict=True)) > 1e-4:
            raise ValueError(
                f"{self._says} VAE maps its output to pictures in a way of its own, which has no "
                "known slope. Connect another VAE for this model, or its tiny decoder (TAESD)."
            )
        return scale, mapped[0]


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Inside, the weights are fit for a graph and none of them asks for a gradient of its own."""
    for module in modules:
        allow_gradients(module)
    asking = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def sound_in_half(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of (B, ...) with the same gradients, where float16 inside would lose small ones.

    A mean over a picture has gradients of a millionth and less, which float16 rounds to zero. So
    what flows back in is stretched, picture by picture, and what comes out shrunk again.
    """

    def call(x: Tensor) -> Tensor:
        if not x.requires_grad:
            return function(x)
        stretch: list[Tensor] = []

        def restore(gradient: Tensor) -> Tensor:
            return (gradient.float() * _rows(stretch.pop(), gradient)).to(gradient.dtype)

        def enlarge(gradient: Tensor) -> Tensor:
            largest = gradient.float().abs().flatten(1).amax(1)
            largest = torch.where(largest > 0, largest, 1.0)
            stretch.append(largest)
            return (gradient.float() / _rows(largest, gradient)).to(gradient.dtype)

        x = x.view_as(x)  # a tensor of its own to hang on to
        x.register_hook(restore)
        out = function(x)
        if out.requires_grad:
            out.register_hook(enlarge)
        return out

    return call


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device).view(-1, *[1] * (like.ndim - 1))


def whole(patcher: Any, what: str) -> Any:
    """A patcher whose weights stay where they are from the forward pass to the backward pass.

    what: names it in the ValueError if there is none.
    """
    if not is_dynamic(patcher):
        return patcher
    try:
        with torch.inference_mode(False):
            return patcher.get_non_dynamic_delegate()
    except RuntimeError as error:
        raise ValueError(
            f"{what} is moved in and out of memory layer by layer (dynamic VRAM), and can't be "
            "loaded whole, which a gradient needs. Load it with ComfyUI's own loader, or start "
            "ComfyUI with --disable-dynamic-vram."
        ) from error


def is_dynamic(patcher: Any) -> bool:
    """Whether the host brings weights to the device only while their layer runs."""
    return getattr(patcher, "is_dynamic", lambda: False)()


def ensure_loaded(patcher: Any) -> None:
    """Bring to the device what the host has not loaded, or left behind for want of memory."""
    if is_dynamic(patcher):
        if not any(patcher.is_clone(other) for other in model_management.loaded_models()):
            model_management.load_models_gpu([patcher])
        return
    device = patcher.load_device
    if all(p.device == device for p in patcher.model.parameters()):
        return
    with torch.inference_mode(False):
        model_management.load_models_gpu([patcher], force_full_load=True)
        if any(p.device != device for p in patcher.model.parameters()):
            patcher.model.to(device)
