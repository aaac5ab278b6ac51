"""Attention Refocusing: each word's attention goes into its boxes, and a box's pixels look at themselves.

Phung, Ge, Huang, "Grounded Text-to-Image Synthesis with Attention Refocusing", CVPR 2024, arXiv 2306.05427.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap, Owners, on_device, smooth, token_means
from attncontrol.layout import Region
from attncontrol.losses.base import Context, Evaluation, Refinement, option
from attncontrol.losses.common import TokenSoftmax
from attncontrol.losses.layout_method import LayoutMethod, PlacedObjects
from attncontrol.losses.refocusing_terms import (
    BoxQueries,
    Release,
    car_terms,
    cells_by_image,
    grounding_terms,
    of_boxes,
    sar_leak,
    token_attention,
)
from attncontrol.losses.registry import register

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


@register(
    "attention-refocusing",
    summary="Draws each object into its boxes, by cross-attention of its words and self-attention of its pixels.",
    paper="Phung et al., CVPR 2024, arXiv 2306.05427",
)
@dataclass(frozen=True, kw_only=True)
class AttentionRefocusing(LayoutMethod, TokenSoftmax):
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
        words = self.token_softmax(attention, contexts)
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
        cells = cells_by_image(boxes, owners)
        queries = BoxQueries.of(on_device(cells, device), torch.float32)
        leak = None
        for layer in layers:
            terms = layer.reduce(lambda p, images: sar_leak(p, queries.weights[images], queries.outside[images]))
            leak = terms if leak is None else leak + terms
        if not boxes.numpy().any((1, 2)).all():  # NaN, as published; the others keep their gradient
            leak = torch.where(queries.empty, torch.nan, leak)
        total = owners.sum(of_boxes(leak, owners) / len(layers))
        return total / objects.counts(total)

    def _grounding(
        self, layers: Sequence[LayerMap], boxes: Tensor, objects: PlacedObjects, own: Sequence[Collection[int]]
    ) -> Tensor:
        """The grounding term of every image, of the layers' mean: the sum over its boxes by its objects.

        `own` are the tokens that do not count against each box. As published the up layers count twice.
        """
        owners = objects.of_images(objects.boxes)
        weights = [2 if self.variant == "reference" and layer.layer.place == "up" else 1 for layer in layers]
        cells = cells_by_image(boxes, owners)

        def of_tokens(attention: Tensor, images: slice) -> Tensor:
            return token_attention(attention, on_device(cells, attention.device)[images])

        found = [of_boxes(layer.reduce(of_tokens), owners) for layer in layers]
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
