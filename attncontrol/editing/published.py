"""Prompt-to-prompt as the published code of Dynamic Prompt Learning runs it: `edit(..., variant="reference")`.

docs/editing.md lists how it differs from `Injection` and `LocalBlend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.editing.alignment import PromptAlignment, align_sequences
from attncontrol.editing.blend import THRESHOLD
from attncontrol.editing.injection import Injection

CROSS_STEPS, SELF_STEPS = 40, 20  # of how many steps soever
MOST_QUERIES = 256  # of the self-attention that is copied


@dataclass
class PublishedInjection(Injection):
    """`last` names the network's last attention layer, whose windows are a step shorter: it sees the next step."""

    last: str | None = None
    steps: int = 50

    def wants(self, layer: Layer) -> bool:
        """Whether the attention of a layer is changed or read in the present step."""
        if layer.is_cross:
            return True
        return layer.size[0] * layer.size[1] <= MOST_QUERIES and self._inside(self.self_attention, layer)

    def _inside(self, window: float, layer: Layer) -> bool:
        ahead = layer.name == self.last
        return round(self.fraction * self.steps) + ahead < round(window * self.steps)

    def apply(self, probabilities: Tensor, layer: Layer) -> Tensor:
        """The attention after injection: only the edit's row changes. Rows: both unconditional, source, edit."""
        source, edit = probabilities[-2:-1], probabilities[-1:]
        window = self.cross if layer.is_cross else self.self_attention
        if layer.is_cross and self._inside(window, layer):
            edit = edit * (1 - self.alignment.weights.to(edit)) + source @ self.alignment.matrix.to(edit)
            edit = edit if self.factors is None else edit * self.factors.to(edit)
        elif not layer.is_cross and self.wants(layer):
            edit = source
        changed = torch.cat([probabilities[:-1], edit])
        if layer.is_cross and isinstance(self.blend, PublishedBlend):
            self.blend.add_rows(changed, layer)
        if layer.is_cross and self.maps is not None:
            self.maps.add(source, edit, layer.size)
        return changed


class PublishedBlend:
    """The mask of the present step only, from entries 2 and 3 of all rows' heads in a line, whatever these are."""

    def __init__(self, position: int, size: tuple[int, int]) -> None:
        self.position, self.size = position, size
        self._seen: list[Tensor] = []

    def add_rows(self, probabilities: Tensor, layer: Layer) -> None:
        """Counts the attention of one layer: [rows, heads, queries, keys]."""
        if layer.size == self.size:
            self._seen.append(probabilities.flatten(0, 1)[2:4, :, self.position].unflatten(1, self.size))

    def __call__(self, source: Tensor, edit: Tensor) -> Tensor:
        """The edit's latents inside either mask, the source's outside; the next step starts without maps."""
        grown = F.max_pool2d(torch.stack(self._seen).mean(0)[:, None], 3, stride=1, padding=1)
        self._seen.clear()
        enlarged = F.interpolate(grown, edit.shape[-2:])
        inside = (enlarged / enlarged.amax((2, 3), keepdim=True) > THRESHOLD).any(0, keepdim=True)
        return source + inside * (edit - source)


def published_alignment(source_ids: list[int], target_ids: list[int], length: int, swap: bool) -> PromptAlignment:
    """Position by position for a word swap, else by the alignment of the pieces, special tokens included.

    Behind the target's end every position stands for itself.
    """
    if swap:
        return PromptAlignment((), torch.eye(length), torch.ones(length))
    mapper = align_sequences(source_ids, target_ids)
    mapper += range(len(mapper), length)
    weights = torch.tensor([float(i >= 0) for i in mapper])
    matrix = torch.zeros(length, length)
    for column, row in enumerate(mapper):
        if row >= 0:
            matrix[row, column] = 1
    return PromptAlignment((), matrix, weights)


def last_layer(layers: Sequence[Layer]) -> str:
    """The name of the layer that runs last: layers are listed by place, those of "up" not always at the end."""
    return ([layer for layer in layers if layer.place == "up"] or layers)[-1].name


def is_swap(source: list[Any], target: list[Any]) -> bool:
    """Whether words were exchanged one for one, so that positions stay what they are."""
    return len(source) == len(target)
