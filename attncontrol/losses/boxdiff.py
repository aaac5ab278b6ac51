"""BoxDiff: strong attention inside a box, weak outside, reaching its edges (Xie et al., arXiv 2307.10816)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attncontrol.attention.maps import AttentionMaps, Owners, on_device, token_means
from attncontrol.layout import Region, cell_box
from attncontrol.layout.regions import Edges
from attncontrol.losses.base import Context, Evaluation, option
from attncontrol.losses.common import SmoothedMaps, ThresholdRefinement, TokenSoftmax
from attncontrol.losses.layout_method import LayoutMethod
from attncontrol.losses.registry import register

Cells = tuple[int, int, int, int]


@dataclass(frozen=True)
class BoxDiffTerms:
    """The four terms of every subject, each [subjects]."""

    inner: Tensor
    outer: Tensor
    corner_x: Tensor
    corner_y: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of all terms of every subject: [subjects]."""
        return self.inner + self.outer + self.corner_x + self.corner_y


def boxdiff_terms(
    maps: Tensor,
    masks: Tensor,
    boxes: Sequence[Sequence[Cells]],
    top_fraction: float = 0.2,
    corner_width: int = 1,
    at_least_one: bool = True,
) -> BoxDiffTerms:
    """BoxDiff's terms (docs/methods/boxdiff.md, section 2).

    Args:
        maps: Prepared maps [subjects, height, width] in 0..1.
        masks: The cells each should fill, bool of that shape, on the CPU.
        boxes: The cells x0, y0, x1, y1 of each subject's boxes, whose edges the corner terms look at.
        top_fraction: The inner and outer terms take the strongest such share of the cells inside and outside.
        corner_width: How many cells around an edge the corner terms look at.
        at_least_one: Take one cell at least; else the mean of none is NaN, as published.
    """
    inside, areas = on_device(masks, maps.device).to(maps.dtype), masks.flatten(1).sum(1)
    sides = ((inside, areas), (1 - inside, maps[0].numel() - areas))
    inner, outer = (_top_mean(maps * side, area, top_fraction, at_least_one) for side, area in sides)
    near = [_near_edges(boxes, axis, maps.shape[2 - axis], corner_width) for axis in (0, 1)]
    near_x, near_y = (on_device(cells, maps.device).to(maps.dtype) for cells in near)
    corner_x = ((maps.amax(1) - inside.amax(1)).abs() * near_x).mean(1)
    corner_y = ((maps.amax(2) - inside.amax(2)).abs() * near_y).mean(1)
    return BoxDiffTerms(1 - inner, outer, corner_x, corner_y)


def _top_mean(values: Tensor, areas: Tensor, fraction: float, at_least_one: bool) -> Tensor:
    """Mean of the largest int(fraction * area) values of every subject: [subjects, height, width] -> [subjects]."""
    counts = (areas.double() * fraction).long().clamp(min=int(at_least_one))
    ranked = values.flatten(1).sort(1, descending=True).values
    counted = on_device(torch.arange(ranked.shape[1]) < counts[:, None], values.device)
    return torch.where(counted, ranked, 0).sum(1) / on_device(counts.to(values.dtype), values.device)


def _near_edges(boxes: Sequence[Sequence[Cells]], axis: int, cells: int, width: int) -> Tensor:
    """Whether a column (axis 0) or row (1) lies within `width` of a box's edge: bool [subjects, cells]."""
    near = np.zeros((len(boxes), cells), dtype=bool)
    for subject, own in enumerate(boxes):
        for edge in (box[i] for box in own for i in (axis, axis + 2)):
            near[subject, max(edge - width, 0) : edge + width + 1] = True
    return torch.from_numpy(near)


@register(
    "boxdiff",
    summary="Fills each object's box: strong attention inside, weak outside, and up to the box's edges.",
    paper="Xie et al., ICCV 2023, arXiv 2307.10816",
)
@dataclass(frozen=True, kw_only=True)
class BoxDiff(LayoutMethod, ThresholdRefinement, TokenSoftmax, SmoothedMaps):
    """BoxDiff (Xie et al., ICCV 2023, arXiv 2307.10816).

    Works on the noun's map; several boxes of an entity are one region, which is an extension of the method.

    The default variant repairs the published code in these points: refinement descends the whole loss and so does
    the update after it, instead of the inner terms alone; a noun of several tokens is the mean of their maps; a box
    smaller than a cell gets one, and a term over less than one cell takes one, instead of NaN; for text encoders
    of Stable Diffusion 2.x the end-of-text and padding positions stay out of the softmax.
    """

    reference_edges: ClassVar[Edges] = "nearest"

    top_fraction: float = option(
        0.2, "share of the cells inside and outside that count, the strongest ones", at_least=0
    )
    corner_width: int = option(
        1, "how many cells around a box's edges the corner terms look at", at_least=0, at_most=256
    )

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that makes no sense."""
        super().__post_init__()
        if not 0 < self.top_fraction <= 1:
            raise ValueError(f"boxdiff: top_fraction must lie in 0..1 and not be 0, got {self.top_fraction}")

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The sum of all terms; the refinement rule reads the largest inner term."""
        terms, owners = self.terms(self.attention(maps), contexts)
        worst, loss = owners.largest(terms.inner), owners.sum(terms.total)
        if self.variant == "default":
            return Evaluation(loss, monitor=worst.detach())
        inner = owners.sum(terms.inner)
        # the published update after refinement holds outer and corner terms constant
        refined = on_device(torch.tensor([now.refinements > 0 for now in contexts]), loss.device)
        loss = torch.where(refined, inner + (loss - inner).detach(), loss)
        return Evaluation(loss, objective=worst, monitor=worst.detach())

    def terms(self, attention: Tensor, contexts: Sequence[Context]) -> tuple[BoxDiffTerms, Owners]:
        """The terms of every placed noun, from mean attention [images, height, width, positions]."""
        subjects = [(image, *own) for image, now in enumerate(contexts) for own in self._subjects(now)]
        probabilities = self.token_softmax(attention, contexts)
        pieces = [(image, tokens) for image, tokens, _ in subjects]
        maps = self.smoothed(token_means(probabilities, pieces, contexts[0].text))
        size, repair = tuple(maps.shape[1:]), self.variant == "default"
        regions = [own for *_, own in subjects]
        boxes = [[cell_box(r, size, edges="nearest", at_least_one=repair) for r in own] for own in regions]
        masks = self.unions(regions, size)
        terms = boxdiff_terms(maps, masks, boxes, self.top_fraction, self.corner_width, repair)
        return terms, Owners(tuple(image for image, *_ in subjects), len(contexts))

    def _subjects(self, context: Context) -> list[tuple[list[int], tuple[Region, ...]]]:
        """Token positions and regions of every map: one per noun, in the reference variant one per token."""
        words = [(list(entity.noun.token_indices), regions) for entity, regions in self.placed(context)]
        return words if self.variant == "default" else [([i], regions) for word, regions in words for i in word]
