"""The evaluators of the paper, from local folders in transformers' format: DPT, Mask2Former."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..annotators.ade20k import CLASSES, to_colours
from ..annotators.kinds import ADE20K, Ways
from ..annotators.segmentation import MODEL_TYPES, Segmentation

LEVELS = 255


def depth_model(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Pictures to inverse depth (B, 1, h, w) at the network's own size, e.g. Intel/dpt-large."""
    transformers = _transformers()
    model = _load(transformers.DPTForDepthEstimation, folder, "dpt", device)
    processor = _load_processor(transformers.DPTImageProcessor, folder)

    def depth(image: Tensor) -> Tensor:
        found = model(**_inputs(processor, image, device)).predicted_depth
        return found[:, None].float().clamp(min=0)

    return depth


def segmenter(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Pictures to classes of ADE20K (B, 1, H, W): Mask2Former, or what the node can load."""
    kind = _model_type(folder)
    if kind in MODEL_TYPES:
        network = Segmentation.from_folder(folder).to(device).eval()
        return lambda image: network.segment(image.to(device)).classes[:, None]
    transformers = _transformers()
    model = _load(transformers.Mask2FormerForUniversalSegmentation, folder, "mask2former", device)
    if len(model.config.id2label) != len(CLASSES):
        raise ValueError(
            f"The model in {folder} has {len(model.config.id2label)} classes; the "
            f"{len(CLASSES)} of ADE20K are needed."
        )
    processor = _load_processor(transformers.Mask2FormerImageProcessor, folder)

    def classes(image: Tensor) -> Tensor:
        outputs = model(**_inputs(processor, image, device))
        sizes = [tuple(image.shape[-2:])] * len(image)
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        return torch.stack(maps)[:, None]

    return classes


def stretched(depth: Tensor, image: Tensor) -> Tensor:
    """Inverse depth as a condition image (B, 1, H, W) of the picture's size, 0..1."""
    sized = F.interpolate(depth, image.shape[-2:], mode="bilinear", align_corners=False)
    low, high = sized.amin((2, 3), keepdim=True), sized.amax((2, 3), keepdim=True)
    return (sized - low) / (high - low).clamp(min=1e-6)


def coloured(classes: Tensor) -> Tensor:
    """Classes (B, 1, H, W) as a condition image (B, 3, H, W)."""
    return to_colours(classes[:, 0])


def _depth_ways(folder: Path, device: torch.device) -> Ways:
    depth = depth_model(folder, device)
    return Ways(lambda image: stretched(depth(image), image), raw=depth)


def _segmentation_ways(folder: Path, device: torch.device) -> Ways:
    classes = segmenter(folder, device)
    return Ways(lambda image: coloured(classes(image)), raw=classes, classes=ADE20K)


# Kind -> the ways of its annotator, from (folder, device).
NETWORKS: Mapping[str, Callable[[Path, torch.device], Ways]] = {
    "depth": _depth_ways,
    "seg": _segmentation_ways,
}


def _inputs(processor: Any, image: Tensor, device: torch.device) -> dict[str, Tensor]:
    pixels = (image.movedim(1, -1) * LEVELS).round().clamp(0, LEVELS).byte().cpu().numpy()
    found = processor(images=list(pixels), return_tensors="pt")
    return {
        name: value.to(device)
        for name, value in found.items()
        if name in ("pixel_values", "pixel_mask")
    }


def _model_type(folder: Path) -> str:
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(
            f"{folder} has no config.json; --model needs a folder in transformers' format, with "
            "config.json, preprocessor_config.json and the weights."
        )
    return json.loads(config.read_text(encoding="utf-8")).get("model_type", "")


def _load(kind: Any, folder: Path, wanted: str, device: torch.device) -> Any:
    found = _model_type(folder)
    if found != wanted:
        raise ValueError(f"{folder} holds a {found or 'nameless'} model; {wanted} is needed.")
    try:
        model = kind.from_pretrained(folder, local_files_only=True)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{folder} can't be loaded as {wanted}: {reason}") from error
    return model.to(device).eval().requires_grad_(False)


def _load_processor(kind: Any, folder: Path) -> Any:
    if not (folder / "preprocessor_config.json").is_file():
        raise ValueError(f"{folder} has no preprocessor_config.json; get the whole folder.")
    return kind.from_pretrained(folder, local_files_only=True)


def _transformers() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"--model needs the package transformers ({error}): pip install transformers"
        ) from error
