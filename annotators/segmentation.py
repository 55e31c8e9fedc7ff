"""Segmentation into the 150 classes of ADE20K, by models of the transformers library.

OneFormer (arXiv 2211.06220) and UperNet (arXiv 1807.10221) behind one interface, read from a local
folder in transformers' format. Nothing here goes online.
"""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .ade20k import CLASSES, palette, to_colours
from .annotator import LearnedAnnotator, check_image, check_values, forwards, pad_to_multiple

log = logging.getLogger(__name__)

MODEL_TYPES = {  # model_type in config.json -> class in transformers
    "oneformer": "OneFormerForUniversalSegmentation",
    "upernet": "UperNetForSemanticSegmentation",
}
TASK = "the task is semantic"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
SMALLEST_SCORE = 1e-20  # far under what tells classes apart, and its reciprocal is finite


class Segments(NamedTuple):
    """Classes (B, H, W), 0..149, and their colours (B, 3, H, W) in 0..1."""

    classes: Tensor
    colours: Tensor


class Segmentation(LearnedAnnotator):
    """What every pixel shows, as class and as colour.

    `forward` mixes the colours of all classes by their probability, `annotate` gives the colour of
    the likeliest one, `segment` also its index, and `logits` is for losses. Pictures of any size.

    model: OneFormer or UperNet with 150 classes. task: (1, L) tokens of TASK, for OneFormer only.
    """

    title = "Segmentation (ADE20K)"
    multiple = 32

    def __init__(
        self,
        model: nn.Module,
        task: Tensor | None = None,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
    ) -> None:
        super().__init__()
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        count = len(getattr(getattr(model, "config", None), "id2label", ()))
        if kind not in MODEL_TYPES or count != len(CLASSES):
            raise ValueError(
                f"The segmentation model is {kind} with {count} classes; it needs to be one of "
                f"{', '.join(MODEL_TYPES)} with the {len(CLASSES)} classes of ADE20K. Choose "
                "another folder."
            )
        if kind == "oneformer" and task is None:
            raise ValueError(f"OneFormer needs the tokens of {TASK!r}; load it with from_folder.")
        self.model = model
        self.register_buffer("task", task, persistent=False)
        self.mean, self.std = mean, std

    def forward(self, image: Tensor) -> Tensor:
        probability = self.logits(image).softmax(1)
        return torch.einsum("bkhw,kc->bchw", probability, palette(probability)[1:])

    @torch.no_grad()
    def annotate(self, image: Tensor) -> Tensor:
        """The condition image (B, 3, H, W), in the colours of the palette and no others."""
        return self.segment(image).colours

    @torch.no_grad()
    def segment(self, image: Tensor) -> Segments:
        """The likeliest class of every pixel of (B, 3, H, W) in 0..1, as index and as colour."""
        check_values(image, self.title)
        classes = torch.cat([self.logits(part).argmax(1) for part in forwards(image)])
        return Segments(classes, to_colours(classes).to(image.dtype))

    def logits(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 150, H, W), float32; their softmax is the probability.

        Differentiable in the image. OneFormer gives scores that are no logits; theirs is the
        logarithm, which ranks the classes the same way.
        """
        check_image(image, self.title)
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.multiple)
        mean, std = (padded.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        x = ((padded - mean) / std).to(self.dtype)
        if self.task is None:
            coarse = self.model(pixel_values=x).logits.float()
        else:
            task = self.get_buffer("task").to(x.device).expand(len(x), -1)
            coarse = _semantic_scores(self.model(pixel_values=x, task_inputs=task))
        maps = F.interpolate(coarse, padded.shape[-2:], mode="bilinear", align_corners=False)
        maps = maps[..., :height, :width]
        return maps if self.task is None else maps.clamp(min=SMALLEST_SCORE).log()

    @classmethod
    def open(
        cls,
        path: Path,
        key: str,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Segmentation:
        """`from_folder`, on a device; the layers are those of transformers."""
        return cls.from_folder(path, dtype=dtype).to(device)

    @classmethod
    def from_folder(cls, folder: Path | str, *, dtype: torch.dtype | None = None) -> Segmentation:
        """A model from a folder with config.json and weights, and for OneFormer a CLIP vocabulary.

        Raises ValueError naming the file that is missing or does not fit.
        """
        folder = Path(folder)
        kind = _read_json(folder, "config.json").get("model_type")
        if kind not in MODEL_TYPES:
            raise ValueError(
                f"{folder / 'config.json'} is of a {kind or 'nameless'} model; "
                f"{' or '.join(MODEL_TYPES)} is needed. Choose another folder."
            )
        transformers = load_transformers()
        try:
            model, report = getattr(transformers, MODEL_TYPES[kind]).from_pretrained(
                folder, local_files_only=True, output_loading_info=True
            )
        except (RuntimeError, OSError) as error:  # other shapes; no or broken weights
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{folder} can't be loaded as {kind}: {reason}. Get the folder again."
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise ValueError(
                f"The weights in {folder} lack {len(missing)} tensors (such as {missing[0]}), so "
                f"they are not of the {kind} in its config.json. Get the folder again."
            )
        task = None
        if kind == "oneformer":
            length = int(model.config.task_seq_len)
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            task = task_tokens(tokenizer, length)
        settings = _read_json(folder, "preprocessor_config.json", optional=True)
        mean, std = (
            tuple(settings.get(name, default))
            for name, default in (("image_mean", MEAN), ("image_std", STD))
        )
        return cls(model.eval().to(dtype or torch.float32), task, mean, std)


def task_tokens(tokenizer: Any, length: int) -> Tensor:
    """TASK as (1, length) tokens, 0 behind its end as OneFormer was trained with."""
    tokens = tokenizer([TASK], padding="max_length", max_length=length, truncation=True)
    return torch.tensor(tokens["input_ids"]) * torch.tensor(tokens["attention_mask"])


def load_transformers() -> ModuleType:
    """The `transformers` module, which ComfyUI brings along; RuntimeError if it does not load."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise RuntimeError(
            f"transformers could not be imported ({error}). Segmentation needs it: run "
            "`pip install transformers` with the Python that runs ComfyUI and restart."
        ) from error


def _semantic_scores(outputs: Any) -> Tensor:
    """OneFormer's queries -> (B, 150, h, w): every class, weighted by the masks that show it."""
    classes = outputs.class_queries_logits.float().softmax(-1)[..., :-1]  # the last: no object
    masks = outputs.masks_queries_logits.float().sigmoid()
    return torch.einsum("bqk,bqhw->bkhw", classes, masks)


def _read_json(folder: Path, name: str, *, optional: bool = False) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        if optional:
            log.info("%s has no %s: the usual mean and deviation are taken", folder, name)
            return {}
        raise ValueError(
            f"{folder} has no {name}; a folder in transformers' format is needed, with config.json "
            "and model.safetensors or pytorch_model.bin."
        )
    return json.loads(path.read_text(encoding="utf-8"))
