"""A-STAR: concepts do not overlap and do not fade (Agarwal et al., arXiv 2306.14544)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.attention.maps import AttentionMaps, Owners, index_tensor, on_device, token_means
from attncontrol.layout import cell_unions
from attncontrol.losses.base import Context, Evaluation, option
from attncontrol.losses.common import DecayingStep, SmoothedMaps, TokenSoftmax
from attncontrol.losses.registry import register


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Overlap of maps in pairs, the sum of their minima by the sum of both (A-STAR, equation 2).

    Args:
        first: [pairs, height, width], 0 or more.
        second: Likewise.

    Returns:
        [pairs] in 0..0.5; 0 for two empty maps.
    """
    total = (first + second).flatten(1).sum(1)
    empty = total < torch.finfo(total.dtype).tiny
    return torch.minimum(first, second).flatten(1).sum(1) / torch.where(empty, 1, total)


def retention_terms(maps: Tensor, masks: Tensor) -> Tensor:
    """1 - overlap of every concept's map with its mask (A-STAR, equation 3).

    Args:
        maps: [concepts, height, width] in 0..1.
        masks: [concepts, height, width] of 0 and 1, constants.

    Returns:
        [concepts] in 0.5..1; 1 and no gradient for an empty mask.
    """
    return 1 - overlap(maps, masks.detach().to(maps.dtype))


def binarize(maps: Tensor, rule: str = "max", threshold: float = 0.5) -> Tensor:
    """Masks of the strongly activated region of each map (A-STAR gives no rule).

    Args:
        maps: [concepts, height, width]; zeros never belong.
        rule: "max" keeps what reaches `threshold` times the map's maximum, "quantile" what reaches that quantile of
            its values, "otsu" what lies above the split that separates its values best.
        threshold: 0..1; without meaning for "otsu".

    Returns:
        bool [concepts, height, width].
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
class AStar(DecayingStep, TokenSoftmax, SmoothedMaps):
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

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """Weighted sum of both losses; hands each image's masks to its next step."""
        concepts, owners = self.concept_maps(self.attention(maps), contexts)
        masks = binarize(concepts, self.binarization, self.threshold)
        counts = [owners.images.count(image) for image in range(owners.count)]
        loss = self.loss(concepts, owners, *self.masks(contexts, tuple(concepts.shape[1:])))
        return Evaluation(loss, carries=masks.split(counts))

    def concept_maps(self, attention: Tensor, contexts: Sequence[Context]) -> tuple[Tensor, Owners]:
        """Prepared maps [concepts, height, width] from mean attention [images, height, width, positions]."""
        words = [(image, word) for image, now in enumerate(contexts) for word in self._concepts(now).values()]
        if self.normalization == "resoftmax":
            attention = self.token_softmax(attention, contexts)
        maps = self.smoothed(token_means(attention, words, contexts[0].text))
        owners = Owners(tuple(image for image, _ in words), len(contexts))
        return spread(maps) if self.normalization == "minmax" else maps, owners

    def masks(self, contexts: Sequence[Context], size: Size) -> tuple[list[int], list[Tensor]]:
        """The concepts with a mask, by their number among those of all images, and their masks in parts [n, ...].

        They are the layout's, or else the previous step's (docs/methods/a_star.md, section 3).
        """
        chosen: list[int] = []
        parts: list[Tensor] = []
        first = 0
        for now in contexts:
            numbers = list(self._concepts(now))
            if now.layout is not None:
                regions = [now.layout.regions[number] for number in numbers]
                chosen += [first + i for i, own in enumerate(regions) if own]
                parts += [cell_unions([own for own in regions if own], size)] if any(regions) else []
            elif now.carry is not None:
                chosen += range(first, first + len(numbers))
                parts.append(now.carry)
            first += len(numbers)
        return chosen, parts

    def loss(self, concepts: Tensor, owners: Owners, masked: Sequence[int], masks: Sequence[Tensor]) -> Tensor:
        """Both terms of maps [concepts, height, width] and masks of some of them, weighted (equation 4): [images]."""
        loss = concepts.new_zeros(owners.count)
        pairs = [(i, j) for i, own in enumerate(owners.images) for j in range(i) if owners.images[j] == own]
        if self.segregation_weight and pairs:
            first, second = index_tensor(pairs, concepts.device).T
            terms = overlap(concepts[first], concepts[second])
            loss = loss + self.segregation_weight * self._of(owners, [i for i, _ in pairs]).sum(terms)
        if self.retention_weight and masked:
            targets = torch.cat([on_device(part, concepts.device) for part in masks])
            terms = retention_terms(concepts[index_tensor(masked, concepts.device)], targets)
            loss = loss + self.retention_weight * self._of(owners, masked).sum(terms)
        return loss

    def _of(self, owners: Owners, concepts: Sequence[int]) -> Owners:
        return Owners(tuple(owners.images[concept] for concept in concepts), owners.count)

    def _concepts(self, context: Context) -> dict[int, tuple[int, ...]]:
        """Tokens of every entity's noun that owns any, by the entity's number."""
        words = (entity.noun.token_indices for entity in context.prompt.entities)
        return {number: tokens for number, tokens in enumerate(words) if tokens}
