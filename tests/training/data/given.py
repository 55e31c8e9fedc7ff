"""Records in memory and encoders that can be computed by hand."""

from __future__ import annotations

import zlib

import torch
from controlnet_pp.cnpp_core.training.data.draw import DataSettings, Encoders, RecordDraw
from controlnet_pp.cnpp_core.training.data.records import Record
from torch import Tensor
from torch.nn.functional import avg_pool2d

WIDTH = 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def value_of(caption: str) -> float:
    """What every number of a caption's embedding is; 0 for the empty one."""
    return float(zlib.crc32(caption.encode()) % 65536)


def marked(width: int, height: int, seed: int = 0) -> Tensor:
    """(1, 3, H, W), black with a block of white pixels somewhere inside."""
    generator = seeded(seed)
    picture = torch.zeros(1, 3, height, width)
    y, x = (
        int(torch.randint(side // 4, side // 2, (), generator=generator))
        for side in (height, width)
    )
    picture[..., y : y + 5, x : x + 7] = 1
    return picture


def record(
    name: str, width: int = 128, height: int = 128, *, found: bool = True, **changes
) -> Record:
    """A picture whose condition marks the very same pixels."""
    picture = marked(width, height, seed=sum(name.encode()))
    given = {
        "name": name,
        "size": (width, height),
        "caption": f"about {name}",
        "stamp": name,
        "picture": lambda: picture,
        "condition": (lambda: picture[:, :1]) if found else None,
    }
    return Record(**(given | changes))


class Counted:
    """Encoders that count: latents are the means of 8 x 8 pixels, texts a number each."""

    def __init__(self, y: bool = False) -> None:
        self.y = y
        self.pictures: list[Tensor] = []
        self.captions: list[str] = []

    def image(self, pictures: Tensor) -> Tensor:
        self.pictures.append(pictures)
        return avg_pool2d(pictures, 8)

    def text(self, captions) -> tuple[Tensor, Tensor | None]:
        self.captions += captions
        values = torch.tensor([value_of(caption) for caption in captions])
        y = values[:, None].expand(-1, 3) if self.y else None
        return values[:, None, None].expand(-1, 2, WIDTH), y

    def encoders(self, image_name: str = "", text_name: str = "") -> Encoders:
        return Encoders(self.image, self.text, image_name, text_name)


def drawn(
    records,
    counted: Counted | None = None,
    names=("", ""),
    *,
    annotate=None,
    cache=None,
    problems=None,
    **settings,
):
    counted = counted or Counted()
    settings = DataSettings(**({"resolution": 128, "batch": 2, "drop_text": 0.0} | settings))
    encoders = counted.encoders(*names)
    return RecordDraw(
        records, encoders, settings, annotate=annotate, cache=cache, problems=problems
    )
