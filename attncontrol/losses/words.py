"""Words of a prompt as groups of token positions, and the distances between their attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attncontrol.attention.maps import Owners, index_tensor, on_device
from attncontrol.prompt.structure import PromptStructure

Word = Sequence[int]
Group = Sequence[Word]
FAINT = 1e-12  # a map with a lower peak is brightened before it is normalised


def word_groups(prompt: PromptStructure, lost_words: bool = False) -> list[list[tuple[int, ...]]]:
    """Every entity as a list of words, modifiers first and the noun last; a word is its token positions.

    Words without tokens (the text encoder cut them off, or nothing aligned) are left out, entities whose noun has
    none altogether. With `lost_words` such modifiers stay in as empty tuples: the published codes of SynGen and
    EBAMA tell a noun that lost its modifiers from a noun that never had any.
    """
    return [
        [m.token_indices for m in entity.modifiers if m.token_indices or lost_words] + [entity.noun.token_indices]
        for entity in prompt.entities
        if entity.noun.token_indices
    ]


class Pair(NamedTuple):
    """Two words of a prompt whose distance enters a loss with this weight: above 0 they attract, below they repel."""

    word: Word
    other: Word
    weight: float


def repulsion(word: Word, group: Group, words: Sequence[int], weight: float) -> list[Pair]:
    """The mean distance of a word to the positions `words` of the prompt that its group does not own, as pairs.

    They repel with `weight` in all; there is none without such positions.
    """
    inside = {i for own in group for i in own}
    outside = [i for i in words if i not in inside]
    return [Pair(word, (i,), -weight / len(outside)) for i in outside]


def prompt_words(prompt: PromptStructure) -> list[int]:
    """The positions of all words of a prompt, in every text encoder."""
    return [i for words in prompt.encoders for i in words]


def distributions(attention: Tensor) -> Tensor:
    """Every token's map as a distribution over pixels, rows of sum 1.

    The scale of a map does not matter, down to a peak of the smallest normal number; a map below stays as it is.
    A map whose peak is below 1e-12 gets the gradient of its brightened copy: its own might overflow.

    Args:
        attention: [images, height, width, positions].

    Returns:
        [images, positions, height * width].
    """
    maps = attention.flatten(1, 2).transpose(1, 2)
    peak = maps.detach().amax(-1, keepdim=True)
    faint = (peak >= torch.finfo(maps.dtype).tiny) & (peak < FAINT)
    maps = maps + torch.where(faint, maps.detach() * (1 / peak - 1), 0)
    total = maps.sum(-1, keepdim=True)
    return maps / torch.where(total < FAINT, 1, total)


def symmetric_kl(p: Tensor, q: Tensor) -> Tensor:
    """Mean of both Kullback-Leibler divergences of rows.

    The logarithms' arguments are clamped to [eps, 1 - eps] of the dtype, the weights are not
    (docs/methods/syngen.md, section 2): an exact zero costs a finite amount.

    Args:
        p: [pairs, pixels], rows of sum 1.
        q: Likewise.

    Returns:
        [pairs], 0 or more.
    """
    eps = torch.finfo(p.dtype).eps
    log_p, log_q = (x.clamp(eps, 1 - eps).log() for x in (p, q))
    return ((p - q) * (log_p - log_q)).sum(-1) / 2


def cosine_distance(p: Tensor, q: Tensor) -> Tensor:
    """1 - cosine similarity of rows of p and q [pairs, pixels]: [pairs] in 0..1 for maps; 1 for a zero row."""
    p, q = (x / torch.where(norm == 0, 1, norm) for x in (p, q) for norm in [x.norm(dim=-1, keepdim=True)])
    return 1 - (p * q).sum(-1)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the L1 distance of rows of p and q [pairs, pixels]: [pairs] in 0..1."""
    return (p - q).abs().sum(-1) / 2


DISTANCES = {"kl": symmetric_kl, "cosine": cosine_distance, "tv": total_variation}


def word_distances(maps: Tensor, pairs: Sequence[tuple[int, Word, Word]], distance: str) -> Tensor:
    """Distance of two words of an image, the largest over pairs of their positions: [pairs].

    Args:
        maps: Distributions [images, positions, pixels].
        pairs: An image and two of its words each, both with at least one position.
        distance: A key of `DISTANCES`.
    """
    pieces = [(n, image, i, j) for n, (image, word, other) in enumerate(pairs) for i in word for j in other]
    owners = Owners(tuple(n for n, *_ in pieces), len(pairs))
    image, first, second = index_tensor([piece[1:] for piece in pieces], maps.device).reshape(-1, 3).T
    distances = DISTANCES[distance](maps[image, first], maps[image, second])
    return distances if len(pieces) == len(pairs) else owners.largest(distances)


def pair_loss(attention: Tensor, pairs: Sequence[Sequence[Pair]], distance: str) -> tuple[Tensor, Tensor]:
    """Sum of every image's weighted distances, as its positive and its negative part.

    Args:
        attention: [images, height, width, positions]; its scale per token does not matter.
        pairs: Those of every image.
        distance: A key of `DISTANCES`.

    Returns:
        The part that attracts and the part that repels: [images] each.
    """
    flat = [(image, pair) for image, own in enumerate(pairs) for pair in own]
    distances = word_distances(distributions(attention), [(i, p.word, p.other) for i, p in flat], distance)
    weights = torch.tensor([pair.weight for _, pair in flat], dtype=attention.dtype)
    terms = distances * on_device(weights, attention.device)
    owners = Owners(tuple(image for image, _ in flat), len(pairs))
    attract = on_device(weights > 0, attention.device)
    return owners.sum(torch.where(attract, terms, 0)), owners.sum(torch.where(attract, 0, terms))
