"""What a ControlNet learns from, as it travels through a graph: encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import folder_paths
import torch
from comfy import model_management
from comfy.utils import ProgressBar
from torch import Tensor

from ....annotators.annotator import to_8_bit
from ....cnpp_core.training.batch import Draw, TrainingBatch
from ....cnpp_core.training.data.buckets import placed
from ....cnpp_core.training.data.cache import Cache, fingerprint
from ....cnpp_core.training.data.draw import Annotate, DataSettings, Encoders, RecordDraw
from ....cnpp_core.training.data.encoded import Encoded, EncodedDraw, Prompt
from ....cnpp_core.training.data.records import Problems, Record
from ..annotate.annotator import NodeAnnotator
from ..annotate.finder import Finder

NODE = "ControlNet Training Data"
OUTPUT = "controlnet_training"  # a folder in the host's output folder
LATENT_CHANNELS = 4


class Rows(Protocol):
    """Pictures with conditions and prompts, those to train with and those held out.

    sizes: whether the UNet is told sizes, as SDXL is.
    """

    def __len__(self) -> int: ...

    def draw(self, batch: int, sizes: bool, device: torch.device) -> Draw: ...

    def held_out(self, sizes: bool, device: torch.device) -> list[TrainingBatch]: ...


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Of one output of the node. Latents are as the autoencoder gives them.

    condition: what the conditions are, for files. finder: how they are found again in pictures,
    None where nothing does. vae: None where latents were given. stamp: another one for other data.
    """

    rows: Rows
    condition: str
    finder: Finder | None
    vae: Any
    stamp: str
    text: str


@dataclass(frozen=True, eq=False)
class Pictures:
    """Records that are encoded already; see `Rows`. annotate: None where they have conditions."""

    records: Sequence[Record]
    held: Sequence[Record]
    encoders: Encoders
    settings: DataSettings
    cache: Cache
    annotate: Annotate | None
    problems: Problems
    vary: Annotate | None = None  # finds conditions to train with, if otherwise than those held out

    def __len__(self) -> int:
        return len(self.records)

    def draw(self, batch: int, sizes: bool, device: torch.device) -> RecordDraw:
        return self._drawn(self.records, self.vary or self.annotate, batch, sizes, device)

    def held_out(self, sizes: bool, device: torch.device) -> list[TrainingBatch]:
        if not self.held:
            return []
        draw = self._drawn(self.held, self.annotate, 1, sizes, device)
        return draw.whole(torch.Generator())

    def encode(self) -> None:
        """Fill the cache; shows progress and can be interrupted."""
        cpu = torch.device("cpu")
        for records in filter(None, (self.records, self.held)):
            self._drawn(records, self.annotate, 1, False, cpu).encode_all()

    def _drawn(
        self,
        records: Sequence[Record],
        annotate: Annotate | None,
        batch: int,
        sizes: bool,
        device: torch.device,
    ) -> RecordDraw:
        settings = replace(self.settings, batch=batch, sizes=sizes)
        return RecordDraw(
            records,
            self.encoders,
            settings,
            annotate=annotate,
            cache=self.cache,
            problems=self.problems,
            device=device,
        )


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents and prompts that other nodes have encoded; see `Rows`."""

    rows: Sequence[Encoded]
    held: Sequence[Encoded]
    empty: Prompt
    drop_text: float

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, batch: int, sizes: bool, device: torch.device) -> EncodedDraw:
        return EncodedDraw(
            self.rows, self.empty, batch, drop_text=self.drop_text, sizes=sizes, device=device
        )

    def held_out(self, sizes: bool, device: torch.device) -> list[TrainingBatch]:
        if not self.held:
            return []
        draw = EncodedDraw(self.held, self.empty, 1, sizes=sizes, device=device)
        return [draw.of(rows) for rows in draw.of_size.values()]


def encoders_of(clip: Any, vae: Any, pictures: int, named: bool) -> Encoders:
    """The graph's CLIP and VAE, with a bar over so many pictures; named for a cache on disk."""
    bar = ProgressBar(pictures)

    def image(pixels: Tensor) -> Tensor:
        model_management.throw_exception_if_processing_interrupted()
        with torch.inference_mode():
            latents = vae.encode(pixels.movedim(1, -1))
        bar.update(1)
        return require_latents(latents, "vae gives")

    def text(captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        model_management.throw_exception_if_processing_interrupted()
        (caption,) = captions
        prompt = prompt_of(encoded(clip, caption), "clip")
        return prompt.context, prompt.pooled

    if not named:
        return Encoders(image, text)
    patches = clip.patcher.patches_uuid if clip.patcher.patches else ""
    text_name = f"{fingerprint(clip.cond_stage_model)} {clip.layer_idx} {patches}"
    return Encoders(image, text, fingerprint(vae.first_stage_model), text_name)


def encoded(clip: Any, caption: str) -> Any:
    """CONDITIONING of a caption."""
    with torch.inference_mode():
        return clip.encode_from_tokens_scheduled(clip.tokenize(caption))


def prompt_of(conditioning: Any, what: str) -> Prompt:
    """The one prompt in a CONDITIONING, fit for a training; ValueError naming what has another."""
    if len(conditioning) != 1:
        raise ValueError(
            f"{NODE}: {what} has {len(conditioning)} prompts in one CONDITIONING, expected one; "
            "give prompts without areas, schedules or Conditioning (Combine)."
        )
    context, options = conditioning[0]
    pooled = options.get("pooled_output")
    return Prompt(kept(context), None if pooled is None else kept(pooled))


def kept(tensor: Tensor) -> Tensor:
    """A copy on the CPU that can take part in a training, which inference tensors can't."""
    with torch.inference_mode(False), torch.no_grad():
        return tensor.detach().to("cpu", torch.float32, copy=True)


def require_latents(latents: Tensor, what: str) -> Tensor:
    """Latents (B, 4, H, W) as they are; ValueError for those of other models."""
    if (
        getattr(latents, "is_nested", False)
        or latents.ndim != 4
        or latents.shape[1] != LATENT_CHANNELS
    ):
        raise ValueError(
            f"{NODE}: {what} latents of shape {tuple(latents.shape)}, expected (1, "
            f"{LATENT_CHANNELS}, height, width), as of SD1.5, SD2.x and SDXL."
        )
    return latents


def found_by(annotator: NodeAnnotator, cache: Cache, resampling: str) -> Annotate:
    """Conditions of pictures (1, 3, H, W), brought to their size.

    Kept in 8 bits where the cache is in memory, so that a network need not find them twice.
    """

    def find(pictures: Tensor) -> Tensor:
        with torch.no_grad():
            found = annotator(pictures)
        return placed(found.float().cpu(), (pictures.shape[-1], pictures.shape[-2]), resampling)

    def annotate(pictures: Tensor, _generator: torch.Generator) -> Tensor:
        if cache.folder is not None:
            return find(pictures)
        key = {"kind": "condition", "encoder": annotator.title, "picture": digest(pictures)}
        return cache.get(key, lambda: {"map": to_8_bit(find(pictures))})["map"].float() / 255

    return annotate


def cache_of(on_disk: bool) -> Cache:
    """In memory, or in the host's output folder, where later runs find it."""
    return Cache(Path(folder_paths.get_output_directory()) / OUTPUT / "cache" if on_disk else None)


def split(rows: Sequence[Any], held_out: int, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Rows to train with and those held out, the same ones each time; ValueError for too few."""
    if len(rows) <= held_out:
        raise ValueError(
            f"{NODE}: there are {len(rows)} pictures and held_out is {held_out}, so that none is "
            "left to train with. Give more pictures, or hold out fewer."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = set(torch.randperm(len(rows), generator=generator)[:held_out].tolist())
    return (
        [row for number, row in enumerate(rows) if number not in chosen],
        [row for number, row in enumerate(rows) if number in chosen],
    )


def digest(*parts: Any) -> str:
    """Hex digits that change when any tensor or text does."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(str(tuple(part.shape)).encode())
            found.update(part.detach().float().cpu().contiguous().numpy().tobytes())
        else:
            found.update(f"{part}\n".encode())
    return found.hexdigest()[:32]
