"""Captions of the emoji world as token ids, with the things that their pictures show as numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import T5TokenizerFast

from apps.emoji.captions import Noise, sample
from apps.emoji.vocabulary import NAMES

from .world import THINGS, TINTS

# more than for the 64-pixel model: guidance and a better fit raise the share of right pictures again
NOISE = Noise(absent=0.55, absent_objects=0.45, swapped=0.25)
TOKENS = 16  # kept of a caption; the longest has 15 and the end of text


def draw(count: int, tokenizer: T5TokenizerFast, seed: int = 7, noise: Noise = NOISE) -> tuple[Tensor, Tensor]:
    """Token ids (count, TOKENS) int16, and the things shown (count, THINGS, 2) int8 as `World` has them."""
    rng = np.random.default_rng(seed)
    drawn = [sample(rng, noise) for _ in range(count)]
    texts = [text for text, _ in drawn]
    ids = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
    things = torch.full((count, THINGS, 2), -1, dtype=torch.int8)
    for row, (_, shown) in enumerate(drawn):
        for column, thing in enumerate(shown):
            numbers = NAMES.index(thing.name), TINTS.index(thing.colour)
            things[row, column] = torch.tensor(numbers, dtype=torch.int8)
    return ids.short(), things
