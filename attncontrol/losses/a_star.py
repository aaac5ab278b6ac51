"""A-STAR: concepts do not overlap and do not fade (Agarwal et al., arXiv 2306.14544)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.attention.maps import AttentionMaps, index_tensor, on_device, resoftmax, token_means
from attncontrol.layout import cell_masks
from attncontrol.losses.base import Context, Evaluation, option
from attncontrol.losses.common import DecayingStep, SmoothedMaps
from attncontrol.losses.registry import register


def segregation_terms(maps: Tensor) -> Tensor:
    """Overlap of every pair of concepts, sum of minima by sum of both (A-STAR, equation 2): [pairs] in 0..0.5.

    maps: [concepts, height, width], 0 or more; pairs in the order (1, 0), (2, 0), (2, 1), ... Two empty maps give 0.
    """
    first, second = torch.tril_indices(len(maps), len(maps), -1, device=maps.device)
    return _overlap(maps[first], maps[second])


def retention_terms(maps: Tensor, masks: Tensor) -> Tensor:
    """1 - overlap of every concept's map with its mask of 0 and 1 (A-STAR, equation 3): [concepts] in 0.5..1.

    maps: [concepts, height, width] in 0..1; masks of that shape, constants. An empty mask gives 1 and no gradient.
    """
    return 1 - _overlap(maps, masks.detach().to(maps.dtype))


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    total = (first + second).flatten(1).sum(1)
    empty = total < torch.finfo(total.dtype).tiny
    return torch.minimum(first, second).flatten(1).sum(1) / torch.where(empty, 1, total)


def binarize(maps: Tensor, rule: str = "max", threshold: float = 0.5) -> Tensor:
    """Masks of the strongly activated region of each map (A-STAR gives no rule): bool, [concepts, height, width].

    "max" keeps what reaches `threshold` times the map's maximum, "quantile" what reaches that quantile of its
    values, "otsu" what lies above the split that separates its values best. Zeros never belong.
    """
    flat = maps.detach().flatten(1)
    if rule == "max":
        level = threshold * flat.amax(1)
    elif rule == "quantile":
        level = flat.quantile(threshold, dim=1)
    else:
        level = _otsu_level(flat)
    return (maps.detach() >= level[:, None, None]) & (maps.detach() > 0)


def _otsu_level(values: Tensor) -> Tensor:
    """The smallest value of the upper class of Otsu's best split of each row: [rows, pixels] -> [rows]."""
    values = values.sort(1).values
    lower = torch.arange(1, values.shape[1], device=values.device)
    upper = values.shape[1] - lower
    below = values.cumsum(1)[:, :-1]
    above = values.sum(1, keepdim=True) - below
    spread = lower * upper * (above / upper - below / lower) ** 2
    return values.gather(1, spread.argmax(1, keepdim=True) + 1)[:, 0]


def spread(maps: Tensor) -> Tensor:
    """Each map spread linearly over 0..1; a constant one becomes 0. Any shape [..., height, width]."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / torch.where(high == low, 1, high - low)


@register(
    "a-star",
    summary="Keeps the attention of different objects apart and each object where it first appeared.",
    paper="Agarwal et al., ICCV 2023, arXiv 2306.14544",
)
@dataclass(frozen=True, kw_only=True)
class AStar(DecayingStep, SmoothedMaps):
    """A-STAR, attention segregation and retention (Agarwal et al., ICCV 2023, arXiv 2306.14544).

    No code was published, so both variants are the same: the paper's two losses on every step, and this project's
    choice where the paper gives none, namely Attend-and-Excite's preparation of the maps and its step sizes, half
    of a map's maximum as the border of its mask, and the mean over the tokens of a concept. With a layout its
    boxes and masks take the place of the previous step's masks; a concept without any then has no retention.
    """

    reference_padding: ClassVar[int | None] = None

    stop: float = option(1.0, "guide up to this fraction of sampling")
    segregation_weight: float = option(
        1.0, "weight of the term that keeps concepts apart; 0 switches it off", at_least=0, at_most=1000
    )
    retention_weight: float = option(
        1.0, "weight of the term that keeps a concept in place; 0 switches it off", at_least=0, at_most=1000
    )
    binarization: Literal["max", "quantile", "otsu"] = option(
        "max", "border of the previous step's mask: a fraction of the map's maximum, a quantile, or Otsu's threshold"
    )
    threshold: float = option(0.5, "the fraction or quantile of binarization, in 0..1", at_least=0)
    normalization: Literal["resoftmax", "raw", "minmax"] = option(
        "resoftmax", "scale of the maps: softmax over the tokens, plain probabilities, or each map spread over 0..1"
    )
    normalize_eot: bool | None = option(
        None, "leave end of text and padding out of the softmax; by default only for 2.x text encoders"
    )

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that makes no sense."""
        super().__post_init__()
        if self.threshold > 1:
            raise ValueError(f"a-star: threshold must lie in 0..1, got {self.threshold}")

    def check(self, context: Context) -> None:
        """Raise ValueError if two concepts own the same tokens: their overlap could not change."""
        super().check(context)
        concepts = list(self._concepts(context).values())
        for i, tokens in enumerate(concepts):
            if tokens in concepts[:i]:
                raise ValueError(f"a-star: two subjects own the same tokens {list(tokens)}; name each of them once")

    def evaluate(self, maps: AttentionMaps, context: Context) -> Evaluation:
        """Weighted sum of both losses; hands its masks to the next step."""
        attention = maps.mean_cross(self.map_size([m.layer for m in maps.layers]))
        concepts = self.concept_maps(attention, context)
        loss = self.loss(concepts, self.masks(context, attention.shape[:2]))
        return Evaluation(loss, carry=binarize(concepts, self.binarization, self.threshold))

    def concept_maps(self, attention: Tensor, context: Context) -> Tensor:
        """Prepared maps [concepts, height, width] from mean attention [height, width, positions] (section 7)."""
        words = self._concepts(context).values()
        if self.normalization == "resoftmax":
            attention = resoftmax(attention, self.softmax_spans(context, self.normalize_eot))
        maps = self.smoothed(token_means(attention, list(words), context.text))
        return spread(maps) if self.normalization == "minmax" else maps

    def masks(self, context: Context, size: Size) -> dict[int, Tensor]:
        """Each concept's mask [height, width]: the layout's, or else the previous step's (section 6)."""
        if context.layout is None:
            return {} if context.carry is None else dict(enumerate(context.carry))
        places = [context.layout.regions[number] for number in self._concepts(context)]
        return {concept: cell_masks(regions, size).any(0) for concept, regions in enumerate(places) if regions}

    def loss(self, concepts: Tensor, masks: dict[int, Tensor]) -> Tensor:
        """Both terms of maps [concepts, height, width] and the masks of some of them, weighted (equation 4)."""
        loss = concepts.new_zeros(())
        if self.segregation_weight:
            loss = loss + self.segregation_weight * segregation_terms(concepts).sum()
        if self.retention_weight and masks:
            targets = on_device(torch.stack(list(masks.values())), concepts.device)
            kept = concepts[index_tensor(list(masks), concepts.device)]
            loss = loss + self.retention_weight * retention_terms(kept, targets).sum()
        return loss

    def plain_step_size(self, context: Context) -> float:
        """The decayed step size inside the window, 0 outside or without concepts."""
        return super().plain_step_size(context) if self._concepts(context) else 0.0

    def _concepts(self, context: Context) -> dict[int, tuple[int, ...]]:
        """Tokens of every entity's noun that owns any, by the entity's number."""
        words = (entity.noun.token_indices for entity in context.prompt.entities)
        return {number: tokens for number, tokens in enumerate(words) if tokens}
