"""The terms of Attention Refocusing: CAR, SAR and the one of GLIGEN's gates (docs/methods/attention_refocusing.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from attncontrol.attention.maps import Owners, index_tensor, on_device
from attncontrol.losses.layout_method import PlacedObjects

Release = Literal["v1", "v2"]


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
    sums = kinds.sum(terms).reshape(3, count) / on_device(counts, maps.device)
    of_inside, of_outside, of_background = sums.unbind()
    return CarTerms(of_inside, of_outside, of_background, ((of_own, inside), (of_other, outside)))


def _any(cells: np.ndarray, owners: Sequence[int], owner: int) -> np.ndarray:
    """The cells [boxes, height, width] of all boxes of one owner together: [height, width]."""
    return np.any(cells[[box for box, own in enumerate(owners) if own == owner]], axis=0)


def _maxima(maps: Tensor, boxes: Tensor, pairs: Sequence[tuple[int, int]], empty: float) -> Tensor:
    """The maximum of the map in the box of every pair, `empty` where a box is: [pairs]."""
    first, second = index_tensor(pairs, maps.device).reshape(-1, 2).T
    maxima = maps[first].masked_fill(~on_device(boxes, maps.device)[second], -torch.inf).amax((-2, -1))
    filled = np.asarray(np.any(boxes.numpy(), axis=(1, 2)))
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


def cells_by_image(boxes: Tensor, owners: Owners) -> Tensor:
    """Boxes [boxes, height, width] by image, filled up with empty ones: bool [images, most boxes, pixels]."""
    return owners.padded(boxes.flatten(1))[:, : owners.count].transpose(0, 1)


def of_boxes(terms: Tensor, owners: Owners) -> Tensor:
    """What there is of every box, out of that of `cells_by_image`: [images, most boxes, ...] -> [boxes, ...]."""
    slots = [owners.images[:box].count(image) for box, image in enumerate(owners.images)]
    index = index_tensor(list(zip(owners.images, slots, strict=True)), terms.device)
    return terms[index[:, 0], index[:, 1]]


def _box_queries(attention: Tensor, boxes: Tensor) -> Tensor:
    """Mean attention of a box's queries: [..., pixels, keys], bool [..., boxes, pixels] -> [..., boxes, keys].

    NaN and no gradient where a box is empty.
    """
    weights = boxes.to(attention)
    cells = weights.sum(-1, keepdim=True)
    return torch.where(cells == 0, torch.nan, weights @ attention / cells.clamp(min=1))
