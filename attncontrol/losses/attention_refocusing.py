"""Attention Refocusing: each word's attention goes into its boxes, and a box's pixels look at themselves.

Phung, Ge, Huang, "Grounded Text-to-Image Synthesis with Attention Refocusing", CVPR 2024, arXiv 2306.05427.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import (
    AttentionMaps,
    LayerMap,
    Owners,
    index_tensor,
    on_device,
    resoftmax,
    smooth,
    token_means,
)
from attncontrol.layout import Region
from attncontrol.losses.base import Context, Evaluation, Refinement, option
from attncontrol.losses.layout_method import LayoutMethod, PlacedObjects
from attncontrol.losses.registry import register

Release = Literal["v1", "v2"]
EARLY_STEPS = 15
PUBLISHED_STEPS = 50
PUBLISHED_SCALE = 4.0
TOKENS = 30  # of a gate
PLAIN_SCALE = 40.0  # the authors' advice without GLIGEN (docs/methods/attention_refocusing.md, section 5)
# first step, first step after, stride, scale of the loss, most moves (docs/methods/attention_refocusing.md, 5 and 6)
SCHEDULES: dict[Release, tuple[tuple[int, int, int, float, int], ...]] = {
    "v2": ((0, 2, 1, 4, 2), (2, 5, 1, 4, 6), (5, 10, 1, 3, 3), (10, 20, 5, 3, 2), (20, 40, 5, 1, 2)),
    "v1": ((0, 10, 1, 3, 5), (10, 20, 1, 2, 5), (20, 30, 1, 1, 1)),
}


@dataclass(frozen=True)
class CarTerms:
    """Cross-attention refocusing of every image [images], each term already divided by its number of objects.

    `maxima` are those of the maps in their own boxes and in the boxes of others, with the image of each.
    """

    inside: Tensor
    outside: Tensor
    background: Tensor
    maxima: tuple[tuple[Owners, Tensor], tuple[Owners, Tensor]]

    @property
    def total(self) -> Tensor:
        """The loss."""
        return self.inside + self.outside + self.background

    @property
    def min_inside(self) -> Tensor:
        """The weakest maximum of a map in one of its boxes: [images], a constant."""
        owners, maxima = self.maxima[0]
        return -owners.largest(-maxima.detach(), none=-torch.inf)

    @property
    def max_outside(self) -> Tensor:
        """The strongest maximum of a map in a box of another object: [images], a constant, 0 without any."""
        owners, maxima = self.maxima[1]
        return owners.largest(maxima.detach())


def car_terms(maps: Tensor, boxes: Tensor, objects: PlacedObjects, early: bool, release: Release = "v2") -> CarTerms:
    """Cross-attention refocusing, CAR (docs/methods/attention_refocusing.md, section 2, and section 6 for "v1").

    The weights come from comparisons and carry no gradient. An empty box counts as filled and as free of others, as
    published.

    Args:
        maps: Prepared maps [maps, height, width] in 0..1.
        boxes: bool [boxes, height, width], on the CPU.
        objects: Whose they are.
        early: Whether a map that fills its boxes well enough still counts (the first 15 of 50 steps).
        release: Of the published code.
    """
    own, other = objects.pairs()
    cells = boxes.numpy()
    own_cells = np.stack([_any(cells, objects.boxes, number) for number in objects.maps])
    image_of_box = objects.of_images(objects.boxes).images
    all_cells = np.stack([_any(cells, image_of_box, image) for image in objects.of_images(objects.maps).images])
    outside_own, nowhere = (maps * on_device(torch.from_numpy(~x), maps.device) for x in (own_cells, all_cells))
    inside = _maxima(maps, boxes, own, empty=1.0)
    outside = _maxima(outside_own, boxes, other, empty=0.0)
    if release == "v1":
        inside_weights, outside_weights = torch.ones_like(inside), torch.ones_like(outside)
    else:
        inside_weights = _weights(early, ((inside < 0.1, 6.0), (inside < 0.2, 1.0)), inside)
        outside_weights = _weights(early, ((outside > 0.15, 4.0), (outside > 0.1, 1.0)), outside)
    of_own, of_other = (objects.of_images([objects.maps[m] for m, _ in pairs]) for pairs in (own, other))
    of_maps = objects.of_images(objects.maps)
    halves = torch.tensor([objects.boxes.count(number) / 2 for number in objects.maps], dtype=maps.dtype)
    background = on_device(halves, maps.device) * nowhere.amax((-2, -1))
    terms = torch.cat([inside_weights * (1 - inside), outside_weights * outside, background])
    count = of_own.count  # one reduction for all three: the terms of a kind follow those of another
    kinds = Owners(
        (*of_own.images, *(count + i for i in of_other.images), *(2 * count + i for i in of_maps.images)), 3 * count
    )
    counts = torch.tensor([max(objects.images.images.count(image), 1) for image in range(count)], dtype=maps.dtype)
    parts = kinds.sum(terms).reshape(3, count) / on_device(counts, maps.device)
    return CarTerms(*parts.unbind(), maxima=((of_own, inside), (of_other, outside)))


def _any(cells: np.ndarray, owners: Sequence[int], owner: int) -> np.ndarray:
    """The cells [boxes, height, width] of all boxes of one owner together: [height, width]."""
    return cells[[box for box, own in enumerate(owners) if own == owner]].any(0)


def _maxima(maps: Tensor, boxes: Tensor, pairs: Sequence[tuple[int, int]], empty: float) -> Tensor:
    """The maximum of the map in the box of every pair, `empty` where a box is: [pairs]."""
    first, second = index_tensor(pairs, maps.device).reshape(-1, 2).T
    maxima = maps[first].masked_fill(~on_device(boxes, maps.device)[second], -torch.inf).amax((-2, -1))
    filled = boxes.numpy().any((1, 2))
    missing = [not filled[box] for _, box in pairs]
    return maxima.masked_fill(on_device(torch.tensor(missing), maps.device), empty) if any(missing) else maxima


def _weights(early: bool, cases: Sequence[tuple[Tensor, float]], like: Tensor) -> Tensor:
    """The value of the first case that holds, else 1 while `early` and then 0."""
    weights = torch.full_like(like, float(early))
    for condition, value in reversed(cases):
        weights = torch.where(condition, value, weights)
    return weights


@dataclass(frozen=True)
class BoxQueries:
    """Which queries belong to a box, and how much each weighs in the box's mean: [images, boxes, pixels].

    `empty` [images, boxes] are boxes without any; their weights are 0.
    """

    weights: Tensor
    outside: Tensor
    empty: Tensor

    @classmethod
    def of(cls, boxes: Tensor, dtype: torch.dtype) -> BoxQueries:
        """Those of boxes, bool [images, boxes, pixels]."""
        cells = boxes.sum(-1, keepdim=True)
        weights = boxes.to(dtype) / cells.clamp(min=1)
        return cls(weights, (~boxes).to(dtype), cells[..., 0] == 0)


def sar_leak(attention: Tensor, weights: Tensor, outside: Tensor) -> Tensor:
    """Self-attention refocusing of one layer, SAR (docs/methods/attention_refocusing.md, section 3).

    Args:
        attention: Probabilities [images, heads, pixels, pixels], rows are queries.
        weights: See `BoxQueries`.
        outside: Likewise.

    Returns:
        The attention that each box's pixels pay to pixels outside, a mean over pixels and heads, in 0..1:
        [images, boxes]; 0 for an empty box.
    """
    return (weights @ attention.mean(1) * outside).sum(-1)


def token_attention(attention: Tensor, boxes: Tensor) -> Tensor:
    """Mean attention of each box's pixels to the grounding tokens.

    Args:
        attention: Probabilities [images, heads, pixels + tokens, same], of a gate.
        boxes: bool [images, boxes, pixels].

    Returns:
        [images, boxes, heads, tokens].
    """
    pixels = boxes.shape[-1]
    return _box_queries(attention[..., :pixels, pixels:], boxes[:, None]).transpose(1, 2)


def grounding_terms(tokens: Tensor, own: Tensor) -> Tensor:
    """The grounding term of GLIGEN's gates (docs/methods/attention_refocusing.md, section 4).

    Args:
        tokens: `token_attention` of boxes, averaged over layers, [boxes, heads, tokens].
        own: bool [boxes, tokens], the tokens that do not count against a box.

    Returns:
        The strongest attention each box pays to another token, a mean over heads: [boxes].
    """
    return (tokens * ~own[:, None]).amax(-1).mean(1)


def _of_boxes(layer: LayerMap, boxes: Tensor, owners: Owners, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """function(attention of some images, their boxes [images, boxes, pixels]), for every box: [boxes, ...].

    `boxes` are those of all images, bool [boxes, height, width] on the CPU.
    """
    cells = owners.padded(boxes.flatten(1))[:, : owners.count].transpose(0, 1)
    slots = [owners.images[:box].count(image) for box, image in enumerate(owners.images)]
    terms = layer.reduce(lambda attention, images: function(attention, on_device(cells, attention.device)[images]))
    index = index_tensor(list(zip(owners.images, slots, strict=True)), terms.device)
    return terms[index[:, 0], index[:, 1]]


def _box_queries(attention: Tensor, boxes: Tensor) -> Tensor:
    """Mean attention of a box's queries: [..., pixels, keys], bool [..., boxes, pixels] -> [..., boxes, keys].

    NaN and no gradient where a box is empty.
    """
    weights = boxes.to(attention)
    cells = weights.sum(-1, keepdim=True)
    return torch.where(cells == 0, torch.nan, weights @ attention / cells.clamp(min=1))


@register(
    "attention-refocusing",
    summary="Draws each object into its boxes, by cross-attention of its words and self-attention of its pixels.",
    paper="Phung et al., CVPR 2024, arXiv 2306.05427",
)
@dataclass(frozen=True, kw_only=True)
class AttentionRefocusing(LayoutMethod):
    """Attention Refocusing: CAR + SAR, and a grounding term with GLIGEN (Phung et al., CVPR 2024, arXiv 2306.05427).

    Every word of a placed entity, noun or modifier, is an object with the entity's boxes. The scale of the loss and
    the most moves in a step follow the published table; a step moves until every word fills its boxes.
    Masks in place of boxes are an extension of the method, not a reproduction.

    The default variant repairs the published code in these points: words are found by their tokens, not by counting
    words, each occurrence by itself; a word of several tokens is the mean of their maps; box edges go to the nearest
    cell instead of being cut off, and a box smaller than a cell gets one, where CAR took it for filled and SAR gave
    NaN; the table is stretched to the number of sampling steps; for text encoders of Stable Diffusion 2.x the
    end-of-text and padding positions stay out of the softmax; the grounding term leaves out all tokens of a box's own
    entity and no other, and the null tokens. Its scale is the one the authors advise without GLIGEN, and the published
    one with it.
    """

    stop: float = option(0.8, "guide up to this fraction of sampling, at most as far as the published table goes")
    step_size: float | None = option(
        None,
        "scale of the loss in the first steps, later ones have 3/4 and 1/4 of it; by default 40, and the published "
        "4, made for GLIGEN, in grounded runs and in the reference variant",
    )
    car: float = option(1.0, "weight of cross-attention refocusing", at_least=0, at_most=1000)
    sar: float = option(1.0, "weight of self-attention refocusing", at_least=0, at_most=1000)
    ground: float = option(
        3.0,
        "weight of the grounding term in the first 15 of 50 steps of grounded runs; v1 has none",
        at_least=0,
        at_most=1000,
    )
    satisfied: float = option(
        0.2, "move no further in a step once every word's maximum in its boxes is this", at_least=0
    )
    release: Release = option("v2", "of the published code: v2 (December 2023), or v1 without weights and thresholds")

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that makes no sense."""
        super().__post_init__()
        if not self.car and not self.sar:
            raise ValueError(f"{self.name}: car and sar are both 0, so there is nothing to optimise")

    @property
    def base_step(self) -> float:
        """The factor of all steps; without a `step_size` of its own that of the variant."""
        if self._has_no_step:
            return PLAIN_SCALE if self.variant == "default" else PUBLISHED_SCALE
        return super().base_step

    @property
    def _has_no_step(self) -> bool:
        return self.step_size is None and self.relative_step is None

    @property
    def _ground(self) -> float:
        return self.ground if self.release == "v2" else 0.0

    def select_layers(self, layers: Sequence[Layer]) -> list[Layer]:
        """Cross-attention layers of one size and, unless their weight is 0, self-attention and gates."""
        layers = self.allowed_layers(layers)
        size = self.map_size(layers)
        weights = [1 if layer.is_cross else self._ground if layer.is_grounding else self.sar for layer in layers]
        chosen = [layer for layer, weight in zip(layers, weights, strict=True) if layer.size == size and weight]
        if self.sar and all(layer.is_cross or layer.is_grounding for layer in chosen):
            raise ValueError(
                f"{self.name}: no self-attention layer has maps of {size[0]}x{size[1]}; set sar=0 or resolution"
            )
        return chosen

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The weighted sum of CAR, SAR and the grounding term, not negative.

        The refinement rule reads the weakest maximum of a word in its box.
        """
        attention = self.attention(maps)
        size = tuple(attention.shape[1:3])
        placed = [(image, *own) for image, now in enumerate(contexts) for own in self._objects(now)]
        words = resoftmax(attention, [self.softmax_spans(now, None) for now in contexts])
        pieces = [(image, word) for image, groups, _ in placed for word in groups]
        prepared = smooth(token_means(words, pieces, contexts[0].text))
        boxes = self.cells([region for *_, regions in placed for region in regions], size)
        objects = PlacedObjects(
            Owners(tuple(image for image, *_ in placed), len(contexts)),
            maps=tuple(number for number, (_, groups, _) in enumerate(placed) for _ in groups),
            boxes=tuple(number for number, (*_, regions) in enumerate(placed) for _ in regions),
        )
        early = self._published_step(contexts[0]) < EARLY_STEPS
        terms = car_terms(prepared, boxes, objects, early, self.release)
        loss = self.car * terms.total
        if self.sar:
            loss = loss + self.sar * self._leak(maps.self_attention(size), boxes, objects, loss.device)
        if early and self._ground and (gates := maps.grounding(size)):
            own = [tokens for now in contexts for tokens in self._own_tokens(now)]
            loss = loss + self._ground * self._grounding(gates, boxes, objects, own)
        return Evaluation(loss, monitor=terms.min_inside)

    def _leak(self, layers: Sequence[LayerMap], boxes: Tensor, objects: PlacedObjects, device: torch.device) -> Tensor:
        """SAR of every image, a mean over layers: the sum over its boxes [boxes, height, width] by its objects."""
        owners = objects.of_images(objects.boxes)
        cells = owners.padded(boxes.flatten(1))[:, : owners.count].transpose(0, 1)
        slots = [owners.images[:box].count(image) for box, image in enumerate(owners.images)]
        queries = BoxQueries.of(on_device(cells, device), torch.float32)
        leak = None
        for layer in layers:
            terms = layer.reduce(lambda p, images: sar_leak(p, queries.weights[images], queries.outside[images]))
            leak = terms if leak is None else leak + terms
        if not boxes.numpy().any((1, 2)).all():  # NaN, as published; the others keep their gradient
            leak = torch.where(queries.empty, torch.nan, leak)
        index = index_tensor(list(zip(owners.images, slots, strict=True)), leak.device)
        total = owners.sum(leak[index[:, 0], index[:, 1]] / len(layers))
        return total / objects.counts(total)

    def _grounding(
        self, layers: Sequence[LayerMap], boxes: Tensor, objects: PlacedObjects, own: Sequence[Collection[int]]
    ) -> Tensor:
        """The grounding term of every image, of the layers' mean: the sum over its boxes by its objects.

        `own` are the tokens that do not count against each box. As published the up layers count twice.
        """
        owners = objects.of_images(objects.boxes)
        weights = [2 if self.variant == "reference" and layer.layer.place == "up" else 1 for layer in layers]
        found = [_of_boxes(layer, boxes, owners, token_attention) for layer in layers]
        tokens = sum(w * t for w, t in zip(weights, found, strict=True)) / sum(weights)
        is_own = torch.tensor([[column in columns for column in range(tokens.shape[-1])] for columns in own])
        return owners.sum(grounding_terms(tokens, on_device(is_own, tokens.device))) / objects.counts(tokens)

    def _own_tokens(self, context: Context) -> list[Collection[int]]:
        """The tokens that do not count against each box of an image, in the order of `_objects`.

        Those of all boxes of its entity, and null tokens. As published it is one, which has the object's number.
        """
        if self.variant == "reference":
            return [{o} for o, (_, regions) in enumerate(self._objects(context)) for _ in regions]
        regions = context.layout.regions
        used = sum(map(len, regions))
        tokens = {
            entity: {*range(end - len(own), end), *range(used, TOKENS)}
            for entity, own, end in zip(context.prompt.entities, regions, accumulate(map(len, regions)), strict=True)
        }
        return [
            tokens[entity]
            for entity, own in self.placed(context)
            for word in (*entity.modifiers, entity.noun)
            if word.token_indices
            for _ in own
        ]

    def _objects(self, context: Context) -> list[tuple[list[list[int]], tuple[Region, ...]]]:
        """Every word of the placed entities: the positions of each of its maps, and its regions."""
        words = [
            (list(word.token_indices), regions)
            for entity, regions in self.placed(context)
            for word in (*entity.modifiers, entity.noun)
            if word.token_indices
        ]
        if self.variant == "reference":
            return [([[i] for i in positions], regions) for positions, regions in words]
        return [([positions], regions) for positions, regions in words]

    def focus(self, context: Context) -> list[list[int]]:
        """Every word, modifiers too: each is an object of its own."""
        words = (word for entity in context.prompt.entities for word in (*entity.modifiers, entity.noun))
        return [list(word.token_indices) for word in words if word.token_indices]

    def plain_step_size(self, context: Context) -> float:
        """0: all moves belong to `refine`."""
        return 0.0

    def refine(self, context: Context) -> Refinement:
        """Move as often as the table allows, until every word fills its boxes or the loss is small.

        The values that are tested belong to the latents before their move.
        """
        published, moves = self._table_row(context)
        if not moves or not self.guides(context):
            return
        grounded = self._has_no_step and context.layout is not None and context.layout.grounded
        step_size = published * (PUBLISHED_SCALE if grounded else self.base_step) / PUBLISHED_SCALE
        test_loss = self.release == "v1" or self._published_step(context) < 10
        for _ in range(moves):
            evaluation = yield step_size
            if self.release == "v2" and not evaluation.monitor < self.satisfied:
                return
            if test_loss and not published * evaluation.loss > 0.1:
                return

    def _table_row(self, context: Context) -> tuple[float, int]:
        """Published scale of the loss and most moves in this step, 0 moves if it does not guide.

        Where the published code guides every fifth step, the first iteration at or after each of these does.
        """
        step, before = self._published_step(context), self._published_step(context, -1)
        for first, end, stride, scale, moves in SCHEDULES[self.release]:
            if first <= step < end:
                if stride > 1 and before >= step // stride * stride:
                    break
                stronger = self.release == "v1" and not self.car and step < 20
                return scale + stronger, moves
        return 0.0, 0

    def _published_step(self, context: Context, offset: int = 0) -> float:
        """The step of the published 50 that this iteration, or one `offset` from it, stands for."""
        index = context.index + offset
        return index if self.variant == "reference" else index * PUBLISHED_STEPS / context.count
