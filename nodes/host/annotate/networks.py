"""The networks of annotators as models of the host.

Each weight file becomes one ModelPatcher, read once per process: the host moves it to the GPU when
it is used and back when it needs the room, and a second run does not touch the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from comfy import model_management, ops
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from torch import Tensor, nn

from ....annotators import weights
from .folders import download_folder, search_folders

log = logging.getLogger(__name__)

LONG_BATCH = 16  # pictures in one forward: between two of them a run can show progress and stop
# What a network holds at once, at most: some maps of 64 channels, or 150 classes three times.
VALUES_PER_PIXEL = 512

_patchers: dict[str, ModelPatcher] = {}  # by key of WEIGHTS, or by folder


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
