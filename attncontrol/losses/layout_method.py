"""What the methods that need a layout have in common."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer, Size
from attncontrol.attention.maps import Owners, on_device
from attncontrol.layout import Region, cell_mask, cell_masks, cell_unions
from attncontrol.layout.regions import Edges
from attncontrol.losses.base import Context, Method
from attncontrol.prompt.structure import Entity


@dataclass(frozen=True)
class PlacedObjects:
    """Objects of all images with their maps and boxes: which image an object, which object a map or a box belongs to.

    Every object has at least one map and one box.
    """

    images: Owners
    maps: tuple[int, ...]
    boxes: tuple[int, ...]

    def of_images(self, objects: Sequence[int]) -> Owners:
        """The images of these objects."""
        return Owners(tuple(self.images.images[number] for number in objects), self.images.count)

    def counts(self, like: Tensor) -> Tensor:
        """How many objects every image has, at least 1: [images], in the dtype and on the device of `like`."""
        counts = torch.tensor([float(max(self.images.images.count(i), 1)) for i in range(self.images.count)])
        return on_device(counts.to(like.dtype), like.device)

    def pairs(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Maps and boxes of one image in pairs: of the same object, and of different ones."""
        image = self.images.images
        near = [
            (m, b)
            for m, own in enumerate(self.maps)
            for b, other in enumerate(self.boxes)
            if image[own] == image[other]
        ]
        own = [(m, b) for m, b in near if self.maps[m] == self.boxes[b]]
        return own, [(m, b) for m, b in near if self.maps[m] != self.boxes[b]]


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
        return cell_unions(regions, size, edges=self._edges, at_least_one=self.variant == "default")
