"""Regions of the image, and the cells of an attention map they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[float, float, float, float]
Region = Box | Tensor
Size = tuple[int, int]
Edges = Literal["nearest", "truncate"]


@dataclass(frozen=True)
class Layout:
    """Where the entities of a prompt should be.

    `regions` holds for every entity, in the prompt structure's order, its regions (none if it may be anywhere). A
    region is a box (x0, y0, x1, y1), fractions of width and height with the origin top left, or a mask, a bool
    tensor [height, width] of any size that spans the image. `grounded` says whether the denoiser is told of them,
    too (docs/grounding.md).
    """

    regions: tuple[tuple[Region, ...], ...]
    grounded: bool = False

    @property
    def boxes(self) -> tuple[tuple[Box, ...], ...]:
        """Every entity's boxes, a mask's being the smallest box around it."""
        return tuple(tuple(bounding_box(region) for region in regions) for regions in self.regions)


def bounding_box(region: Region) -> Box:
    """The smallest box around a region, in 0..1. A mask must not be empty."""
    if not isinstance(region, Tensor):
        return region
    height, width = region.shape
    x0, y0, x1, y1 = cell_box(region, (height, width))
    return x0 / width, y0 / height, x1 / width, y1 / height


def cell_box(
    region: Region, size: Size, *, edges: Edges = "nearest", at_least_one: bool = True
) -> tuple[int, int, int, int]:
    """The cells of a map that a box covers.

    Args:
        region: A box in 0..1, or a mask, for which these are the cells around its `cell_mask`.
        size: (height, width) of the map.
        edges: Whether box edges go to the "nearest" cell border (halves to the even one, never below 0;
            docs/methods/boxdiff.md, section 1), or are truncated (docs/methods/attention_refocusing.md, section 1:
            boxes shift by half a cell on average).
        at_least_one: Whether a box that is narrower than a cell gets the one its centre lies in.

    Returns:
        x0, y0, x1, y1, the last two exclusive.
    """
    height, width = size
    if isinstance(region, Tensor):
        mask = cell_mask(region, size, at_least_one=at_least_one)
        columns, rows = (mask.any(axis).nonzero().flatten().tolist() for axis in (0, 1))
        return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if columns else (0, 0, 0, 0)
    x0, y0, x1, y1 = region
    spans = []
    for first, last, cells in ((x0, x1, width), (y0, y1, height)):
        span = [int(v * cells) if edges == "truncate" else max(round(v * cells), 0) for v in (first, last)]
        if at_least_one and span[1] <= span[0]:
            centre = min(max(int((first + last) / 2 * cells), 0), cells - 1)
            span = [centre, centre + 1]
        spans.append(span)
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def cell_mask(region: Region, size: Size, *, edges: Edges = "nearest", at_least_one: bool = True) -> Tensor:
    """The cells of a map that a region covers.

    Args:
        region: A box (see `cell_box`; coordinates outside 0..1 act as Python slice bounds do), or a mask, which covers
            the cells of which it fills at least half.
        size: (height, width) of the map.
        edges: See `cell_box`.
        at_least_one: Whether a mask that half fills no cell gets the fullest one; for boxes see `cell_box`.

    Returns:
        bool [height, width], on the CPU.
    """
    return torch.from_numpy(_cells(region, size, edges, at_least_one))


def cell_masks(
    regions: Sequence[Region], size: Size, *, edges: Edges = "nearest", at_least_one: bool = True
) -> Tensor:
    """`cell_mask` of several regions: bool [regions, height, width]; at least one region."""
    return torch.from_numpy(np.stack([_cells(region, size, edges, at_least_one) for region in regions]))


def cell_unions(
    places: Sequence[Sequence[Region]], size: Size, *, edges: Edges = "nearest", at_least_one: bool = True
) -> Tensor:
    """The cells that any region of each place covers: bool [places, height, width]; at least one of both."""
    return torch.from_numpy(
        np.stack([np.any([_cells(r, size, edges, at_least_one) for r in own], axis=0) for own in places])
    )


def _cells(region: Region, size: Size, edges: Edges, at_least_one: bool) -> np.ndarray:
    """`cell_mask` as an array: layouts of a whole batch are put on the maps in every round."""
    if isinstance(region, Tensor):
        share = F.adaptive_avg_pool2d(region.detach().cpu().float()[None, None], size)[0, 0].numpy()
        mask = share >= 0.5
        if at_least_one and not mask.any():
            mask.flat[share.argmax()] = True
        return mask
    x0, y0, x1, y1 = cell_box(region, size, edges=edges, at_least_one=at_least_one)
    cells = np.zeros(size, dtype=bool)
    cells[y0:y1, x0:x1] = True
    return cells
