"""Teach the cross-attention where things are: the maps of a word are drawn to the boxes of what it names.

The rendered scenes tell where every thing is. With this term a word's attention becomes the model's estimate of where
its thing will be, and stays low where the picture does not show it, as in captions that name absent things. The idea
is that of TokenCompose (Wang et al., CVPR 2024, arXiv 2312.03626), with one cross-entropy in place of its two losses.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from .scenes import SIZE, Placed

WEIGHT = 0.1
NAME_SHARE = 0.6  # of the attention in a thing's box; the rest is its colour's, or nobody's where none is named
LAYERS = ("mid_block", "up_blocks")  # what comes before knows too little of the picture
THINGS = 4  # most things in a scene


class RecordingAttention:
    """Plain attention, whose probabilities in cross-attention are kept: mean over the heads, (N, queries, 77).

    On CPUs in bfloat16 it is faster than torch's own attention, too: 69 samples/s in training where that made 47.
    """

    def __init__(self, kept: list[Tensor] | None) -> None:
        self.kept = kept

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = (query * attn.scale @ key.transpose(-1, -2)).softmax(-1)
        if self.kept is not None:
            self.kept.append(probabilities.float().mean(1))
        output = (probabilities.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[0](output)


def record(unet: UNet2DConditionModel) -> list[Tensor]:
    """Give every layer plain attention; the list fills with the maps of the `LAYERS` in each forward."""
    kept: list[Tensor] = []
    for name, module in unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            wanted = name.endswith(".attn2") and name.startswith(LAYERS)
            module.set_processor(RecordingAttention(kept if wanted else None))
    return kept


def pack(placed: list[list[Placed]], word_ids: dict[str, int]) -> Tensor:
    """Things of every scene as numbers, (N, THINGS, 6) int16: token of the name and of the colour, box in pixels.

    No colour is -1, no thing a row of -1.
    """
    packed = torch.full((len(placed), THINGS, 6), -1, dtype=torch.int16)
    for row, things in enumerate(placed):
        for column, item in enumerate(things):
            colour = -1 if item.thing.colour is None else word_ids[item.thing.colour]
            packed[row, column] = torch.tensor([word_ids[item.thing.name], colour, *item.box], dtype=torch.int16)
    return packed


def coverage(boxes: Tensor, cells: int, side: int = SIZE) -> Tensor:
    """How much of every cell of a grid the boxes cover, 0..1: (..., 4) in pixels of `side` -> (..., cells, cells)."""
    edges = torch.arange(cells, device=boxes.device) * (side / cells)
    low, high = boxes[..., :2, None], boxes[..., 2:, None]
    shares = (torch.minimum(high, edges + side / cells) - torch.maximum(low, edges)).clamp(min=0) * (cells / side)
    return shares[..., 1, :, None] * shares[..., 0, None, :]


def targets(ids: Tensor, things: Tensor, cells: int, side: int = SIZE) -> Tensor:
    """What the map of every slot should show: (N, 77) token ids, (N, THINGS, 6) -> (N, 77, cells, cells) in 0..1.

    The words of a thing share its box, `NAME_SHARE` for its name. A word without a thing has an empty map.
    """
    name, colour = (ids[:, :, None] == things[:, None, :, word] for word in (0, 1))
    share = name * NAME_SHARE + colour * (1 - NAME_SHARE)
    return (share[..., None, None] * coverage(things[..., 2:].float(), cells, side)[:, None]).amax(2)


def grounding_loss(maps: list[Tensor], ids: Tensor, live: Tensor, things: Tensor) -> Tensor:
    """Mean binary cross-entropy between the maps of the live slots and their targets.

    maps: (N, queries, 77) each; live: (N, 77) bool, the slots to look at.
    """
    losses = []
    for layer in maps:
        wanted = targets(ids, things, round(layer.shape[1] ** 0.5))[live].flatten(1)
        found = layer.transpose(1, 2)[live].clamp(1e-5, 1 - 1e-5)
        losses.append(F.binary_cross_entropy(found, wanted))
    return torch.stack(losses).mean()
