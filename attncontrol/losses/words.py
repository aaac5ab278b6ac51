"""Words of a prompt as groups of token positions, and the distances between their attention maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncontrol.attention.maps import index_tensor
from attncontrol.prompt.structure import PromptStructure

Group = Sequence[Sequence[int]]
FAINT = 1e-12  # least sum of a map that is normalised


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


def tokens_outside(group: Group, words: Sequence[int]) -> list[tuple[int]]:
    """Those of the positions `words` of the prompt that no word of the group owns, each as a word of its own."""
    inside = {i for word in group for i in word}
    return [(i,) for i in words if i not in inside]


def prompt_words(prompt: PromptStructure) -> list[int]:
    """The positions of all words of a prompt, in every text encoder."""
    return [i for words in prompt.encoders for i in words]


def distributions(attention: Tensor) -> Tensor:
    """Every token's map as a distribution over pixels: [height, width, tokens] -> [tokens, pixels], rows of sum 1.

    A map that is zero everywhere, or so faint (a sum below 1e-12) that its gradient might overflow, stays as it is.
    """
    maps = attention.flatten(0, 1).T
    total = maps.sum(1, keepdim=True)
    return maps / torch.where(total < FAINT, 1, total)


def symmetric_kl(p: Tensor, q: Tensor) -> Tensor:
    """Mean of both Kullback-Leibler divergences of rows of p [n, pixels] and q [m, pixels]: [n, m], 0 or more.

    The logarithms' arguments are clamped to [eps, 1 - eps] of the dtype, the weights are not (SynGen, section 5):
    an exact zero costs a finite amount.
    """
    eps = torch.finfo(p.dtype).eps
    log_p, log_q = (x.clamp(eps, 1 - eps).log() for x in (p, q))
    return ((p[:, None] - q) * (log_p[:, None] - log_q)).sum(-1) / 2


def cosine_distance(p: Tensor, q: Tensor) -> Tensor:
    """1 - cosine similarity of rows of p [n, pixels] and q [m, pixels]: [n, m] in 0..1 for maps; 1 for a zero row."""
    p, q = (x / torch.where(norm == 0, 1, norm) for x in (p, q) for norm in [x.norm(dim=1, keepdim=True)])
    return 1 - p @ q.T


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the L1 distance of rows of p [n, pixels] and q [m, pixels]: [n, m] in 0..1."""
    return (p[:, None] - q).abs().sum(-1) / 2


DISTANCES = {"kl": symmetric_kl, "cosine": cosine_distance, "tv": total_variation}


def word_distances(maps: Tensor, words: Group, others: Group, distance: str) -> Tensor:
    """Distance of every word to every other one, the largest over their pieces (SynGen, section 5): [words, others].

    `maps` are distributions [tokens, pixels], `distance` a key of `DISTANCES`; words have at least one token.
    """
    rows, columns = (_padded(group, maps.device) for group in (words, others))
    pieces = DISTANCES[distance](maps[rows.flatten()], maps[columns.flatten()])
    pieces = pieces.reshape(*rows.shape, *columns.shape).movedim(1, 2)
    return pieces.flatten(2).max(-1).values


def _padded(words: Group, device: torch.device) -> Tensor:
    """Token positions [words, most pieces]; shorter words repeat their first piece, which changes no maximum."""
    length = max(len(word) for word in words)
    return index_tensor([[*word, *[word[0]] * (length - len(word))] for word in words], device)
