"""Local blend: the edited image differs from its source only where the named words look."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attncontrol.attention.layers import Size

THRESHOLD = 0.3  # of the map's maximum, as published


class LocalBlend:
    """The mean attention of the named words over the steps so far, and the mask that follows from it.

    `source` and `edit` are the words' token positions in the two prompts, one of which may have none; `size` is the
    size of the maps that count.
    """

    def __init__(self, source: tuple[int, ...], edit: tuple[int, ...], size: Size) -> None:
        self.positions, self.size = (source, edit), size
        self._sums: list[Tensor | None] = [None, None]

    def add(self, source: Tensor, edit: Tensor, size: Size) -> None:
        """Counts the attention of one layer: [images, heads, queries, keys] of the sources and of the edits."""
        if size != self.size:
            return
        for i, (probabilities, positions) in enumerate(zip((source, edit), self.positions, strict=True)):
            if positions:
                seen = probabilities[..., list(positions)].mean((1, 3)).unflatten(1, size)
                self._sums[i] = seen if self._sums[i] is None else self._sums[i] + seen

    def mask(self, size: Size) -> Tensor:
        """True where either prompt's words look: [images, height, width] at the latents' size."""
        return torch.stack([_where(seen, size) for seen in self._sums if seen is not None]).any(0)

    def __call__(self, source: Tensor, edit: Tensor) -> Tensor:
        """The edits' latents inside the mask, the sources' outside: [images, channels, height, width]."""
        return torch.where(self.mask(tuple(edit.shape[-2:]))[:, None], edit, source)


def _where(seen: Tensor, size: Size) -> Tensor:
    grown = F.max_pool2d(seen[:, None], 3, stride=1, padding=1)
    enlarged = F.interpolate(grown, size)[:, 0]
    return enlarged > THRESHOLD * enlarged.amax((1, 2), keepdim=True)
