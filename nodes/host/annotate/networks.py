"""The networks of annotators as models of the host.

Each becomes one ModelPatcher: the host moves it to the GPU when it is used and back when it needs
the room. It is read once as long as the host has it loaded or somebody holds it, an ANNOTATOR in
the graph for one, and gone after that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary, finalize

import torch
from comfy import model_management, ops
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from torch import Tensor, nn

from ....annotators import weights
from ....annotators.kinds import Network
from ..memory import PartsThatFit, rows_that_fit
from .folders import download_folder, named_folder, search_folders

LONG_BATCH = 16  # pictures in one forward: between two of them a run can show progress and stop
# What a network holds at once, at most: some maps of 64 channels, or 150 classes three times.
VALUES_PER_PIXEL = 512

# By what they are: class of the network, key of its weights, name of a folder to use instead.
_patchers: WeakValueDictionary[Hashable, ModelPatcher] = WeakValueDictionary()
# What holds each as long as the host has it loaded, see `keep_while_loaded`.
_ties: WeakKeyDictionary[ModelPatcher, finalize] = WeakKeyDictionary()


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
    keep = model_management.intermediate_device()

    def part(start: int, stop: int) -> tuple[int, Any]:
        found = run(image[start:stop].to(device))
        return stop, found.to(keep, image.dtype) if isinstance(found, Tensor) else found

    parts = PartsThatFit(_at_once(image, device) if patchers else LONG_BATCH, "Annotator")
    # Of one part there is nothing to show, and longer work that it belongs to has its own bar.
    bar = ProgressBar(len(image)) if len(image) > parts.rows else None
    results: list[Any] = []
    for done, found in parts.of(len(image), part):
        results.append(found)
        if bar is not None:
            bar.update_absolute(done)
    return results


def load(patchers: Sequence[ModelPatcher], image: Tensor) -> None:
    """Have the host move the models to their device, with room to run them on (B, 3, H, W).

    At most LONG_BATCH pictures count, for more never run at once.
    """
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
    keep_while_loaded(patchers)


def keep_while_loaded(patchers: Sequence[ModelPatcher]) -> None:
    """Have models live at least as long as the host has them loaded, or a clone of them.

    The host itself holds weakly what it has loaded. So a run with another picture, before which the
    graph drops its ANNOTATOR, need not read the network again; and unloading really frees it. It is
    tied to the host's entry, since the host still uses a model while it unloads it.
    """
    for entry in model_management.current_loaded_models:
        for patcher in patchers:
            if entry.model is None or not patcher.is_clone(entry.model):
                continue
            tied = patcher in _ties and _ties[patcher].peek()
            if not tied or tied[0] is not entry:
                _ties[patcher] = finalize(entry, _let_go, patcher)


def opened(network: Network, download: bool = False, folder: str = "") -> ModelPatcher:
    """A network with its published weights, or with those in a folder of ours, read once.

    Raises FileNotFoundError, which says how to get the file, unless `download` fetches it;
    ValueError for a folder that is not there.
    """

    def read(dtype: torch.dtype, device: torch.device) -> nn.Module:
        path = named_folder(folder) if folder else find_weights(network.key, download)
        layers = ops.disable_weight_init
        return network.kind.open(path, network.key, operations=layers, dtype=dtype, device=device)

    return once((network.kind, network.key, folder), read)


def once(key: Hashable, read: Callable[[torch.dtype, torch.device], nn.Module]) -> ModelPatcher:
    """The model that `read` gives, or gave when it was last asked for under this key.

    key: what no other network is called, see `_patchers`.
    """
    patcher = _patchers.get(key)
    if patcher is None:
        load_device = model_management.get_torch_device()
        offload_device = model_management.unet_offload_device()
        half = load_device.type != "cpu" and model_management.should_use_fp16(load_device)
        # Weights that are made in inference mode could never let a gradient through.
        with torch.inference_mode(False), torch.no_grad():
            module = read(torch.float16 if half else torch.float32, offload_device)
        for part in module.modules():  # a forward on a CPU takes seconds: it can stop in its midst
            part.register_forward_pre_hook(_stop_if_interrupted)
        module.eval().requires_grad_(False)
        patcher = ModelPatcher(module, load_device=load_device, offload_device=offload_device)
        _patchers[key] = patcher
    return patcher


def find_weights(key: str, download: bool) -> Path:
    """Where the file or folder is, after a download if need be and if wanted."""
    try:
        return weights.find(key, search_folders(), "Switch on `download` in the node")
    except FileNotFoundError:
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


def _let_go(_patcher: ModelPatcher) -> None:
    """What holds a model as its argument, until the host has forgotten it."""


def _picture_bytes(image: Tensor, device: torch.device) -> int:
    """Memory that one picture of the batch takes inside a network, by rule of thumb."""
    itemsize = 4 if device.type == "cpu" else 2
    return image.shape[-2] * image.shape[-1] * VALUES_PER_PIXEL * itemsize


def _at_once(image: Tensor, device: torch.device) -> int:
    """Pictures that a network takes together: those that fit, on a CPU one."""
    if device.type == "cpu":
        return 1
    return min(LONG_BATCH, rows_that_fit(_picture_bytes(image, device), device))
