"""ReGround: cross-attention reads what the self-attention made, not what GLIGEN's gates add to it.

Lee and Sung, "ReGround: Improving Textual and Spatial Grounding at No Cost", ECCV 2024, arXiv 2403.13589. A block of
GLIGEN computes F' = F + G(F), then F' + C(F'); rewired, it is F + G(F) + C(F). Only the input of the norm before
cross-attention differs.
"""

from __future__ import annotations

import threading
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attncontrol.families.gligen import GroundedUNetFamily


class Rewiring:
    """The rewired blocks of a UNet: hooks that are there between `install` and `remove`.

    Args:
        family: Of the UNet.
        blocks: True for all blocks with a gate, False for none, or patterns as in "up.1, mid".

    Raises:
        ValueError: If a pattern names no block, or a block is of a kind that cannot be rewired.
    """

    def __init__(self, family: GroundedUNetFamily, blocks: bool | str) -> None:
        self._blocks: list[Any]
        if isinstance(blocks, str):
            self._blocks = family.matching_blocks(blocks)
        else:
            self._blocks = list(family.blocks().values()) if blocks else []
        for block in self._blocks:
            if block.norm_type != "layer_norm":
                raise ValueError(f"grounding: blocks with the norm {block.norm_type!r} cannot be rewired")
        self._handles: list[RemovableHandle] = []

    def install(self) -> None:
        """Adds the hooks."""
        for block in self._blocks:
            bypass = _Bypass()
            self._handles.append(block.fuser.register_forward_pre_hook(bypass.keep))
            self._handles.append(block.norm2.register_forward_pre_hook(bypass.give))

    def remove(self) -> None:
        """Removes the hooks."""
        while self._handles:
            self._handles.pop().remove()


class _Bypass(threading.local):
    """Takes what goes into a block's gate past it; threads that share the UNet have one each."""

    input: Tensor | None = None

    def keep(self, module: nn.Module, args: tuple[Tensor, Tensor]) -> None:
        self.input = args[0]

    def give(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        kept, self.input = self.input, None
        return None if kept is None else (kept,)
