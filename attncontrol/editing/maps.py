"""What an edit can tell of its attention: where every position of both prompts is looked at, step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from attncontrol.attention.layers import Size


class StepMaps:
    """The cross-attention of sources and edits as it is used, the mean over the heads and the layers of one size."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self._present: list[Tensor] = []
        self._steps: list[Tensor] = []

    def add(self, source: Tensor, edit: Tensor, size: Size) -> None:
        """Counts the attention of one layer: [images, heads, queries, keys] of the sources and of the edits."""
        if size == self.size:
            both = torch.stack([source, edit]).float().mean(2)
            self._present.append(both.transpose(2, 3).unflatten(3, size).cpu())

    def end_step(self) -> None:
        """What comes now is of the next step."""
        self._steps.append(torch.stack(self._present).mean(0))
        self._present.clear()

    def result(self) -> Tensor:
        """[2, images, steps, positions, height, width], sources first."""
        return torch.stack(self._steps, 2)
