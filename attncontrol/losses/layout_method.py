"""What the methods that need a layout have in common."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attncontrol.attention.layers import Layer, Size
from attncontrol.layout import Region, cell_mask, cell_masks, cell_union
from attncontrol.layout.regions import Edges
from attncontrol.losses.base import Context, Method
from attncontrol.prompt.structure import Entity


@dataclass(frozen=True, kw_only=True)
class LayoutMethod(Method):
    """A method that draws entities into their regions. Entities without a region take no part."""

    needs_layout: ClassVar[bool] = True
    reference_edges: ClassVar[Edges] = "truncate"

    def check(self, context: Context) -> None:
        """Raise ValueError without a region for any entity."""
        super().check(context)
        if not self.placed(context):
            raise ValueError(f"{self.name}: the layout has no box for any entity of the prompt")

    def check_maps(self, context: Context, layers: Sequence[Layer]) -> None:
        """Warn of boxes smaller than a cell of the finest maps.

        Such a box gets one cell in the default variant; the reference variant treats it as the published code does.
        """
        height, width = max((layer.size for layer in layers if layer.is_cross), key=min)
        fate = "gets one" if self.variant == "default" else "is an empty region in the reference variant"
        for entity, regions in self.placed(context):
            for region in regions:
                if not cell_mask(region, (height, width), edges=self._edges, at_least_one=False).any():
                    shown = "a mask" if isinstance(region, Tensor) else f"box {list(region)}"
                    warnings.warn(
                        f"{self.name}: the layout of {entity.text!r}: {shown} covers no cell of {height}x{width} "
                        f"attention maps and {fate}",
                        stacklevel=2,
                    )

    @property
    def _edges(self) -> Edges:
        return "nearest" if self.variant == "default" else self.reference_edges

    def placed(self, context: Context) -> list[tuple[Entity, tuple[Region, ...]]]:
        """The entities that have regions and a noun the text encoder sees, each with its regions."""
        pairs = zip(context.prompt.entities, context.layout.regions, strict=True)
        return [(entity, regions) for entity, regions in pairs if regions and entity.noun.token_indices]

    def cells(self, regions: Sequence[Region], size: Size) -> Tensor:
        """The cells of each region on a map of (height, width): bool [regions, height, width]."""
        return cell_masks(regions, size, edges=self._edges, at_least_one=self.variant == "default")

    def unions(self, regions: Sequence[Sequence[Region]], size: Size) -> Tensor:
        """The cells of every entity's regions together: bool [entities, height, width]; at least one entity."""
        repair = self.variant == "default"
        unions = [cell_union(own, size, edges=self._edges, at_least_one=repair).numpy() for own in regions]
        return torch.from_numpy(np.stack(unions))
