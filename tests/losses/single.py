"""The losses of a batch for one image: most vectors and properties speak of one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncontrol.attention import maps as batch
from attncontrol.attention.maps import Owners
from attncontrol.losses import a_star, attend_and_excite, conform, ebama, layout_guidance, refocusing_terms, syngen
from attncontrol.losses.refocusing_terms import CarTerms, PlacedObjects
from attncontrol.losses.words import Group, Pair, distributions, pair_loss, repulsion, word_distances


def resoftmax(attention: Tensor, spans: Sequence[slice], scale: float = 100.0) -> Tensor:
    """Mean attention [height, width, positions] after the softmax over spans of its positions."""
    return batch.resoftmax(attention[None], [spans], scale)[0]


def token_means(attention: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """[groups, height, width] from [height, width, positions]."""
    return batch.token_means(attention[None], [(0, group) for group in groups])


def attend_and_excite_loss(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, a scalar, and that of every subject, from maps [subjects, height, width]."""
    loss, losses = attend_and_excite.attend_and_excite_loss(maps, Owners((0,) * len(maps), 1))
    return loss[0], losses


def segregation_terms(maps: Tensor) -> Tensor:
    """Overlap of the pairs (1, 0), (2, 0), (2, 1), ... of maps [concepts, height, width]."""
    first, second = torch.tril_indices(len(maps), len(maps), -1)
    return a_star.overlap(maps[first], maps[second])


def nt_xent_loss(embeddings: Tensor, labels: Tensor, temperature: float = 0.5) -> Tensor:
    """A scalar from rows [rows, pixels] and labels [rows]."""
    return conform.nt_xent_loss(embeddings[None], labels[None], temperature)[0]


def contrastive_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
    """A scalar from rows [rows, pixels] and labels [rows]."""
    return conform.contrastive_loss(embeddings[None], labels[None])[0]


def distances(attention: Tensor, pairs: Sequence[Pair], distance: str) -> list[float]:
    """The distance of every pair of words in mean attention [height, width, positions]."""
    maps = distributions(attention[None])
    return word_distances(maps, [(0, pair.word, pair.other) for pair in pairs], distance).tolist()


def mean_distance(attention: Tensor, word: Sequence[int], group: Group, words: Sequence[int], distance: str) -> float:
    """R(w) of docs/methods/syngen.md: the mean distance of a word to the words outside its group."""
    pairs = repulsion(word, group, words, 1.0)
    found = distances(attention, pairs, distance)
    return -sum(pair.weight * d for pair, d in zip(pairs, found, strict=True))


def syngen_loss(
    attention: Tensor, groups: Sequence[Group], words: Sequence[int], distance: str = "kl"
) -> tuple[Tensor, Tensor]:
    """Positive and negative part, two scalars, from mean attention [height, width, positions]."""
    pairs = [pair for group in groups for pair in syngen.syngen_pairs(group, words)]
    positive, negative = pair_loss(attention[None], [pairs], distance)
    return positive[0], negative[0]


def ebama_binding_loss(
    attention: Tensor, groups: Sequence[Group], words: Sequence[int], distance: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Positive and negative part, two scalars, from mean attention [height, width, positions]."""
    pairs = [pair for group in groups for pair in ebama.ebama_pairs(group, words, distance)]
    positive, negative = pair_loss(attention[None], [pairs], distance)
    return positive[0], negative[0]


def object_peaks(attention: Tensor, tokens: Sequence[int], spans: Sequence[slice]) -> Tensor:
    """[tokens] from mean attention [height, width, positions]."""
    return ebama.object_peaks(resoftmax(attention, spans)[None], [(0, token) for token in tokens])


def car_terms(
    maps: Tensor, owners: Sequence[int], boxes: Tensor, box_owners: Sequence[int], early: bool, release: str = "v2"
) -> CarTerms:
    """Terms [1] from maps [maps, height, width] and boxes [boxes, height, width] of these objects."""
    objects = Owners((0,) * (max(box_owners) + 1), 1)
    return refocusing_terms.car_terms(
        maps, boxes, PlacedObjects(objects, tuple(owners), tuple(box_owners)), early, release
    )


def sar_loss(attention: Tensor, boxes: Tensor, objects: int) -> Tensor:
    """A scalar from [heads, pixels, pixels] and boxes [boxes, pixels]: the sum over boxes by the number of objects."""
    queries = refocusing_terms.BoxQueries.of(boxes[None], attention.dtype)
    leak = refocusing_terms.sar_leak(attention[None], queries.weights, queries.outside)
    return torch.where(queries.empty, torch.nan, leak).sum() / objects


def layout_guidance_loss(attention: Tensor, objects: Sequence[Sequence[int]], masks: Tensor) -> Tensor:
    """A scalar from [heads, pixels, positions]: the mean over objects of the mean over their positions."""
    numbers = [number for number, own in enumerate(objects) for _ in own]
    maps = attention[:, :, [i for own in objects for i in own]].movedim(-1, 0)
    terms = layout_guidance.layout_guidance_terms(maps, masks[numbers])
    return torch.stack([part.mean() for part in terms.split([len(own) for own in objects])]).mean()
