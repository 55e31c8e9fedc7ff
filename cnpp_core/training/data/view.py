"""A record as a batch shows it: read, placed in its bucket, mirrored or not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...control.hints import SMOOTH
from .buckets import Size, cut_off, placed
from .embeddings import size_embedding
from .records import Read, Record


class UnreadableError(Exception):
    """A record can't be used, as it turns out when it is drawn."""


@dataclass(frozen=True)
class View:
    """A record at the size of a bucket."""

    record: Record
    bucket: Size
    mirrored: bool

    def of(self, read: Read, resampling: str = SMOOTH) -> Tensor:
        """(1, C, H, W) of the bucket's size; UnreadableError for what can't be read as it was."""
        try:
            pixels = read()
        except (ValueError, OSError) as error:
            raise UnreadableError(str(error)) from error
        size = (pixels.shape[-1], pixels.shape[-2])
        if size != self.record.size:
            expected = "x".join(map(str, self.record.size))
            raise UnreadableError(f"it is {size[0]}x{size[1]} pixels now, expected {expected}")
        pixels = placed(pixels, self.bucket, resampling)
        return pixels.flip(-1) if self.mirrored else pixels

    def size_embedding(self) -> Tensor:
        """(1536,), see `embeddings.size_embedding`."""
        width, height = self.record.size
        cut = cut_off(self.record.size, self.bucket)
        return size_embedding(height, width, *cut, *reversed(self.bucket))
