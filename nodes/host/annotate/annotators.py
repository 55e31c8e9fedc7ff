"""Annotators as they travel through a graph, and their networks as models of the host.

Each weight file becomes one ModelPatcher, read once per process: the host moves it to the GPU when
it is used and back when it needs the room, and a second run does not touch the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from comfy import model_management, ops
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from torch import Tensor, nn

from ....annotators import weights
from ....annotators.ade20k import CLASSES, PALETTE
from ....annotators.resize import pixel_perfect, short_side_size, to_short_side
from ....cnpp_core.consistency.agreement.labels import Colour
from .folders import download_folder, search_folders

log = logging.getLogger(__name__)

LONG_BATCH = 16  # pictures in one forward: between two of them a run can show progress and stop
# What a network holds at once, at most: some maps of 64 channels, or 150 classes three times.
VALUES_PER_PIXEL = 512

_patchers: dict[str, ModelPatcher] = {}  # by key of WEIGHTS, or by folder


@dataclass(frozen=True)
class Size:
    """The `resolution` of a node: a short side in pixels, 0 for the picture's own.

    With a target, the picture to be made, it is the short side at which the condition needs no
    scaling any more ("pixel perfect"), whatever `resolution` says.
    """

    resolution: int = 0
    target_width: int = 0
    target_height: int = 0

    def short_side(self, image: Tensor) -> int:
        """The short side for pictures (B, C, H, W), 0 to leave them alone."""
        if bool(self.target_width) != bool(self.target_height):
            raise ValueError(
                f"target_width is {self.target_width} and target_height {self.target_height}: set "
                "both to the size of the picture to be made, or both to 0 to use resolution."
            )
        if not self.target_width:
            return self.resolution
        height, width = image.shape[-2:]
        return pixel_perfect(height, width, self.target_height, self.target_width)


@dataclass(frozen=True)
class NodeAnnotator:
    """What an ANNOTATOR output carries: a node's annotator with all of the node's settings.

    condition: a name of `cnpp_core.condition.Condition` in lower case.
    find: pictures (B, 3, H, W) in 0..1 to the condition (B, 1 or 3, H, W) in 0..1.
    differentiable: the same to the map whose gradient reaches the picture; None if there is none.
    patchers: the models it runs, in memory.
    rewarded: like `differentiable`, to what a loss is taken on where that is another map: logits.
    guiding: to what guidance follows where that is again another; see `reward.guidance_loss`.
    palette, names, palette_name: for seg, colour (0..255) and word of each class, and whose.
    title: its name for messages, where the condition's is not enough.
    """

    condition: str
    find: Callable[[Tensor], Tensor]
    differentiable: Callable[[Tensor], Tensor] | None = None
    patchers: tuple[ModelPatcher, ...] = ()
    size: Size = Size()
    rewarded: Callable[[Tensor], Tensor] | None = None
    palette: Sequence[Colour] = PALETTE[1:]
    names: Sequence[str] = CLASSES
    palette_name: str = "ADE20K"
    guiding: Callable[[Tensor], Tensor] | None = None
    title: str = ""

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 to the condition (B, 1 or 3, H', W'), as the node gives it."""
        return torch.cat(self.run(self.find, image))

    def run(self, function: Callable[[Tensor], Any], image: Tensor) -> list[Any]:
        """What `function` gives for the batch, or for each part of it, at the size of the node."""
        image = to_short_side(image, self.size.short_side(image))
        return in_chunks(function, image, self.patchers)

    def soft(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 to the map before any rounding, differentiable in the picture.

        For gradients call it outside of inference mode, on a batch that fits into memory.
        """
        return self._through(self.differentiable, image)

    def reward_map(self, image: Tensor) -> Tensor:
        """Like `soft`, to the map that `metrics.reward_loss` compares: for seg the logits."""
        return self._through(self.rewarded or self.differentiable, image)

    @property
    def can_guide(self) -> bool:
        """Whether it has a differentiable map."""
        return self.differentiable is not None

    def guidance_map(self, image: Tensor) -> Tensor:
        """Like `reward_map`, to what guidance follows. The models must be in memory already."""
        function = self.guiding or self.rewarded or self.differentiable
        return self._through(function, image, loaded=True)

    def _through(
        self,
        function: Callable[[Tensor], Tensor] | None,
        image: Tensor,
        loaded: bool = False,
    ) -> Tensor:
        if function is None:
            raise ValueError(
                f"The annotator for {self.title or self.condition} has no differentiable map. "
                "Connect one that has: Canny, Soft Edge (HED), Line Art, M-LSD Lines, Depth "
                "(MiDaS), Normal ..."
            )
        short_side = self.size.short_side(image)
        if short_side not in (0, min(image.shape[-2:])):
            height, width = short_side_size(image.shape[-2], image.shape[-1], short_side)
            image = F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)
        if not loaded:
            load(self.patchers, image)
        for patcher in self.patchers:
            allow_gradients(patcher.model)
        if self.patchers:
            image = image.to(self.patchers[0].load_device)
        return function(image)


def in_chunks(
    run: Callable[[Tensor], Any], image: Tensor, patchers: Sequence[ModelPatcher] = ()
) -> list[Any]:
    """What `run` gives for the whole batch at once, or for the largest parts of it that fit.

    Networks on a CPU get one picture at a time, see `annotators.annotator.forwards`.
    image: (B, 3, H, W) on any device; `run` gets it where the models are. Tensors come back to the
    device that the host keeps pictures on. Shows progress and can be interrupted in between.
    """
    load(patchers, image)
    device = patchers[0].load_device if patchers else image.device
    rows = min(len(image), LONG_BATCH, _at_once(image, device) if patchers else LONG_BATCH)
    # Of one part there is nothing to show, and longer work that it belongs to has its own bar.
    bar = ProgressBar(len(image)) if len(image) > rows else None
    results: list[Any] = []
    done = 0
    while done < len(image):
        model_management.throw_exception_if_processing_interrupted()
        try:
            found = run(image[done : done + rows].to(device))
        except torch.cuda.OutOfMemoryError:
            if rows == 1:
                raise
            rows = (rows + 1) // 2
            log.info("Out of memory: going on with %d pictures at a time.", rows)
            model_management.soft_empty_cache()
            continue
        keep = model_management.intermediate_device()
        results.append(found.to(keep, image.dtype) if isinstance(found, Tensor) else found)
        done += rows
        if bar is not None:
            bar.update_absolute(min(done, len(image)))
    return results


def load(patchers: Sequence[ModelPatcher], image: Tensor) -> None:
    """Have the host move the models to their device, with room for as much of the batch."""
    if not patchers:
        return
    rows = min(len(image), LONG_BATCH)
    # Outside of inference mode, so that weights that move stay fit for gradients.
    with torch.inference_mode(False):
        model_management.load_models_gpu(
            list(patchers),
            memory_required=rows * _picture_bytes(image, patchers[0].load_device),
            force_full_load=True,
        )
        for patcher in patchers:
            # With --novram the host leaves layers behind that it knows no casting for.
            if any(p.device != patcher.load_device for p in patcher.model.parameters()):
                patcher.model.to(patcher.load_device)


def model(kind: Callable[..., nn.Module], key: str, *, download: bool = False) -> ModelPatcher:
    """The network `kind` with the weights of `annotators.weights.WEIGHTS[key]`, read once.

    Raises MissingWeights, which says how to get the file, unless `download` fetches it.
    """

    def read(dtype: torch.dtype, device: torch.device) -> nn.Module:
        path = find_weights(key, download)
        module = kind(operations=ops.disable_weight_init, dtype=dtype, device=device)
        weights.load(module, key, path)
        return module

    return once(key, read)


def once(name: str, read: Callable[[torch.dtype, torch.device], nn.Module]) -> ModelPatcher:
    """The model that `read` gave for this name when it was first asked for."""
    if name not in _patchers:
        load_device = model_management.get_torch_device()
        offload_device = model_management.unet_offload_device()
        half = load_device.type != "cpu" and model_management.should_use_fp16(load_device)
        # Weights that are made in inference mode could never let a gradient through.
        with torch.inference_mode(False), torch.no_grad():
            module = read(torch.float16 if half else torch.float32, offload_device)
        for part in module.modules():  # a forward on a CPU takes seconds: it can stop in its midst
            part.register_forward_pre_hook(_stop_if_interrupted)
        module.eval().requires_grad_(False)
        _patchers[name] = ModelPatcher(
            module, load_device=load_device, offload_device=offload_device
        )
    return _patchers[name]


def find_weights(key: str, download: bool) -> Path:
    """Where the file or folder is, after a download if need be and if wanted."""
    try:
        return weights.find(key, search_folders())
    except weights.MissingWeights:
        if not download:
            raise
        return weights.download(key, download_folder(), _show_progress())


def allow_gradients(module: nn.Module) -> None:
    """Replace weights that were moved in inference mode, as the host does, by copies.

    Such tensors can take no part in autograd, not even as constants.
    """
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            if value.is_inference():
                setattr(part, name, nn.Parameter(value.clone(), requires_grad=False))
        for name, value in part.named_buffers(recurse=False):
            if value.is_inference():
                setattr(part, name, value.clone())


def _stop_if_interrupted(_module: nn.Module, _inputs: Any) -> None:
    model_management.throw_exception_if_processing_interrupted()


def _show_progress() -> Callable[[int, int | None], None]:
    bar = ProgressBar(1)

    def show(done: int, total: int | None) -> None:
        model_management.throw_exception_if_processing_interrupted()
        if total:
            bar.update_absolute(done, total)

    return show


def _picture_bytes(image: Tensor, device: torch.device) -> int:
    """Memory that one picture of the batch takes inside a network, by rule of thumb."""
    itemsize = 4 if device.type == "cpu" else 2
    return image.shape[-2] * image.shape[-1] * VALUES_PER_PIXEL * itemsize


def _at_once(image: Tensor, device: torch.device) -> int:
    """Pictures that a network takes together: those that fit, on a CPU one."""
    if device.type == "cpu":
        return 1
    free = model_management.get_free_memory(device)
    return max(1, int(free * 0.9) // _picture_bytes(image, device))
