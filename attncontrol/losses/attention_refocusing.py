"""Attention Refocusing: each word's attention goes into its boxes, and a box's pixels look at themselves.

Phung, Ge, Huang, "Grounded Text-to-Image Synthesis with Attention Refocusing", CVPR 2024, arXiv 2306.05427.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, on_device, resoftmax, smooth, token_means
from attncontrol.layout import Region
from attncontrol.losses.base import Context, Evaluation, Refinement, option
from attncontrol.losses.layout_method import LayoutMethod
from attncontrol.losses.registry import register

Release = Literal["v1", "v2"]
EARLY_STEPS = 15
PUBLISHED_STEPS = 50
PUBLISHED_SCALE = 4.0
PLAIN_SCALE = 40.0  # the authors' advice without GLIGEN (section 8)
# first step, first step after, stride, scale of the loss, most moves (section 7 and, for v1, section 9)
SCHEDULES: dict[Release, tuple[tuple[int, int, int, float, int], ...]] = {
    "v2": ((0, 2, 1, 4, 2), (2, 5, 1, 4, 6), (5, 10, 1, 3, 3), (10, 20, 5, 3, 2), (20, 40, 5, 1, 2)),
    "v1": ((0, 10, 1, 3, 5), (10, 20, 1, 2, 5), (20, 30, 1, 1, 1)),
}


@dataclass(frozen=True)
class CarTerms:
    """Cross-attention refocusing: three scalars, each already divided by the number of objects, and two extremes."""

    inside: Tensor
    outside: Tensor
    background: Tensor
    min_inside: Tensor
    max_outside: Tensor

    @property
    def total(self) -> Tensor:
        """The loss."""
        return self.inside + self.outside + self.background


def car_terms(
    maps: Tensor, owners: Tensor, boxes: Tensor, box_owners: Tensor, early: bool, release: Release = "v2"
) -> CarTerms:
    """Cross-attention refocusing (CAR; Attention Refocusing, section 4, and section 9 for release "v1").

    maps: prepared maps [maps, height, width] in 0..1, `owners` [maps] the object of each, 0 .. objects - 1; boxes:
    bool [boxes, height, width], `box_owners` [boxes] likewise, every object with at least one. `early` says whether
    a map that fills its boxes well enough still counts (the first 15 of 50 steps). The weights of section 4 come
    from comparisons and carry no gradient. An empty box counts as filled and as free of others, as published.
    """
    objects = int(box_owners.max()) + 1
    own = on_device(owners[:, None] == box_owners, maps.device)
    masks = boxes[None] & own[..., None, None]
    outside_own = maps * ~masks.any(1)
    nowhere = maps * ~boxes.any(0)
    empty = ~boxes.flatten(1).any(1)
    inside = torch.where(empty, 1.0, _maximum(maps[:, None], boxes))
    outside = torch.where(empty, 0.0, _maximum(outside_own[:, None], boxes))
    if release == "v1":
        inside_weights = outside_weights = torch.ones_like(inside)
    else:
        inside_weights = _weights(early, ((inside < 0.1, 6.0), (inside < 0.2, 1.0)), inside)
        outside_weights = _weights(early, ((outside > 0.15, 4.0), (outside > 0.1, 1.0)), outside)
    return CarTerms(
        inside=torch.where(own, inside_weights * (1 - inside), 0).sum() / objects,
        outside=torch.where(own, 0, outside_weights * outside).sum() / objects,
        background=(own.sum(1) / 2 * nowhere.amax((-2, -1))).sum() / objects,
        min_inside=torch.where(own, inside.detach(), torch.inf).min(),
        max_outside=torch.where(own, 0.0, outside.detach()).max(),
    )


def _maximum(maps: Tensor, boxes: Tensor) -> Tensor:
    """The maximum of every map [n, 1, height, width] in every box [m, height, width]: [n, m], -inf if empty."""
    return maps.masked_fill(~boxes, -torch.inf).amax((-2, -1))


def _weights(early: bool, cases: Sequence[tuple[Tensor, float]], like: Tensor) -> Tensor:
    """The value of the first case that holds, else 1 while `early` and then 0."""
    weights = torch.full_like(like, float(early))
    for condition, value in reversed(cases):
        weights = torch.where(condition, value, weights)
    return weights.detach()


def sar_loss(attention: Tensor, boxes: Tensor, objects: int) -> Tensor:
    """Self-attention refocusing of one layer (SAR; Attention Refocusing, section 5).

    attention: probabilities [heads, pixels, pixels], rows are queries; boxes: bool [boxes, pixels]. For each box the
    attention its pixels pay to pixels outside, a mean over pixels and heads; the sum over boxes divided by
    `objects`, in 0 .. boxes / objects. An empty box gives NaN, as published, and the others their gradient.
    """
    leak = _box_queries(attention, boxes) * ~boxes
    return leak.sum(-1).mean(0).sum() / objects


def grounding_loss(attention: Tensor, boxes: Tensor, box_owners: Tensor, early: bool) -> Tensor:
    """Gated self-attention of GLIGEN's fuser, averaged over layers (Attention Refocusing, section 6).

    attention: [heads, pixels + grounding tokens, same]; boxes: bool [boxes, pixels] with the objects `box_owners`
    [boxes], whose number is also taken for that of their grounding token, as published. The strongest attention a
    box pays to another token, a mean over heads; the sum over boxes divided by the objects; 0 unless `early`.
    """
    pixels = boxes.shape[1]
    if not early:
        return attention.new_zeros(())
    tokens = _box_queries(attention[:, :pixels, pixels:], boxes)
    columns = torch.arange(tokens.shape[-1], device=tokens.device)
    others = tokens * (columns != box_owners[:, None])
    return others.amax(-1).mean(0).sum() / (box_owners.max() + 1)


def _box_queries(attention: Tensor, boxes: Tensor) -> Tensor:
    """Mean attention of a box's queries: [heads, pixels, keys] -> [heads, boxes, keys]; NaN, no gradient, if empty."""
    weights = boxes.to(attention)
    cells = weights.sum(1, keepdim=True)
    return torch.where(cells == 0, torch.nan, weights @ attention / cells.clamp(min=1))


@register(
    "attention-refocusing",
    summary="Draws each object into its boxes, by cross-attention of its words and self-attention of its pixels.",
    paper="Phung et al., CVPR 2024, arXiv 2306.05427",
)
@dataclass(frozen=True, kw_only=True)
class AttentionRefocusing(LayoutMethod):
    """Attention Refocusing, CAR + SAR, without GLIGEN (Phung et al., CVPR 2024, arXiv 2306.05427).

    Every word of a placed entity, noun or modifier, is an object with the entity's boxes. The scale of the loss and
    the most moves in a step follow the published table; a step moves until every word fills its boxes.
    Masks in place of boxes are an extension of the method, not a reproduction.

    The default variant repairs the published code in these points: words are found by their tokens, not by counting
    words, each occurrence by itself; a word of several tokens is the mean of their maps; box edges go to the nearest
    cell instead of being cut off, and a box smaller than a cell gets one, where CAR took it for filled and SAR gave
    NaN; the table is stretched to the number of sampling steps; for text encoders of Stable Diffusion 2.x the
    end-of-text and padding positions stay out of the softmax. Its scale is the one the authors advise without
    GLIGEN.
    """

    stop: float = option(0.8, "guide up to this fraction of sampling, at most as far as the published table goes")
    step_size: float | None = option(
        None,
        "scale of the loss in the first steps, later ones have 3/4 and 1/4 of it; by default 40, and the published "
        "4, made for GLIGEN, in the reference variant",
    )
    car: float = option(1.0, "weight of cross-attention refocusing", at_least=0, at_most=1000)
    sar: float = option(1.0, "weight of self-attention refocusing", at_least=0, at_most=1000)
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
        if self.step_size is None and self.relative_step is None:
            return PLAIN_SCALE if self.variant == "default" else PUBLISHED_SCALE
        return super().base_step

    def select_layers(self, layers: Sequence[Layer]) -> list[Layer]:
        """Cross-attention and, unless `sar` is 0, self-attention layers of one size."""
        layers = self.allowed_layers(layers)
        size = self.map_size(layers)
        chosen = [layer for layer in layers if layer.size == size and (layer.is_cross or self.sar)]
        if self.sar and all(layer.is_cross for layer in chosen):
            raise ValueError(
                f"{self.name}: no self-attention layer has maps of {size[0]}x{size[1]}; set sar=0 or resolution"
            )
        return chosen

    def evaluate(self, maps: AttentionMaps, context: Context) -> Evaluation:
        """car * CAR + sar * SAR, not negative; the refinement rule reads the weakest maximum of a word in its box."""
        size = self.map_size([m.layer for m in maps.layers])
        attention = maps.mean_cross(size)
        objects = self._objects(context)
        words = resoftmax(attention, self.softmax_spans(context, None))
        pieces = [(positions, o) for o, (groups, _) in enumerate(objects) for positions in groups]
        prepared = smooth(token_means(words, [positions for positions, _ in pieces], context.text))
        boxes = on_device(torch.cat([self.cells(regions, size) for _, regions in objects]), prepared.device)
        queries = boxes.flatten(1)
        owners = torch.tensor([o for _, o in pieces])
        box_owners = torch.tensor([o for o, (_, own) in enumerate(objects) for _ in own])
        early = self._published_step(context) < EARLY_STEPS
        terms = car_terms(prepared, owners, boxes, box_owners, early, self.release)
        loss = self.car * terms.total
        if self.sar:
            leaks = [m.reduce(lambda p: sar_loss(p, queries, len(objects))) for m in maps.self_attention(size)]
            loss = loss + self.sar * torch.stack(leaks).mean()
        return Evaluation(loss, monitor=terms.min_inside)

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
        """Move as often as the table allows, until every word fills its boxes or the loss is small (section 7).

        The values that are tested belong to the latents before their move.
        """
        published, moves = self._table_row(context)
        if not moves or not self.guides(context):
            return
        step_size = published * self.base_step / PUBLISHED_SCALE
        test_loss = self.release == "v1" or self._published_step(context) < 10
        for _ in range(moves):
            evaluation = yield step_size
            if self.release == "v2" and not evaluation.monitor < self.satisfied:
                return
            if test_loss and not published * evaluation.loss > 0.1:
                return

    def _table_row(self, context: Context) -> tuple[float, int]:
        """Published scale of the loss and most moves in this step, 0 moves if it does not guide (sections 7, 9).

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
