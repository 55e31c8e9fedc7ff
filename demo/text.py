"""The closed vocabulary of the shapes world: a tokenizer and the encoder of its prompts."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from .world import WORDS

LENGTH = 12  # the longest caption has eleven words
WIDTH = 64
PAD, UNKNOWN = 0, 1
VOCABULARY = ("<pad>", "<unknown>", *WORDS)
_INDEX = {word: index for index, word in enumerate(VOCABULARY)}


def tokenize(text: str) -> list[int]:
    """Token ids of a prompt, always LENGTH of them: padded, or cut where it is longer.

    Words are read in lower case; a word outside the vocabulary becomes <unknown>.
    """
    words = re.findall(r"[a-z]+", text.lower())
    ids = [_INDEX.get(word, UNKNOWN) for word in words[:LENGTH]]
    return ids + [PAD] * (LENGTH - len(ids))


class TextEncoder(nn.Module):
    """Token ids (B, LENGTH) -> context (B, LENGTH, WIDTH): embeddings and one transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY), WIDTH)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.words(ids) + self.positions)
