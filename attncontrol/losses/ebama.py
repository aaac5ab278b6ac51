"""EBAMA: attributes follow their object, objects stay apart and strong (Zhang et al., arXiv 2404.07389)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attncontrol.attention.maps import AttentionMaps, Owners, smooth, token_means
from attncontrol.losses.base import Context, Evaluation, option
from attncontrol.losses.common import TokenSoftmax
from attncontrol.losses.registry import register
from attncontrol.losses.words import Group, Pair, pair_loss, prompt_words, repulsion, word_groups


def ebama_pairs(group: Group, words: Sequence[int], distance: str = "cosine") -> list[Pair]:
    """The pairs of words that one group attracts and repels (docs/methods/ebama.md, section 2).

    Args:
        group: Attributes, then the object, each as token positions; empty where an attribute owns none.
        words: The positions of the prompt's words.
        distance: Under "cosine" the distances of an attribute's pieces add up, else the largest counts.

    Returns:
        d(m, o) of every attribute m of the object o, and the object's mean distance to the other words, repelling
        once per attribute, once without any, and not at all if no attribute owns a token.
    """
    *attributes, target = group
    owned = [word for word in attributes if word]
    parts = [(i,) for word in owned for i in word] if distance == "cosine" else owned
    repulsions = len(owned) if attributes else 1
    return [Pair(part, target, 1.0) for part in parts] + repulsion(target, group, words, repulsions)


def object_peaks(probabilities: Tensor, objects: Sequence[tuple[int, int]]) -> Tensor:
    """Smoothed maximum, in 0..1, of the maps of some tokens (docs/methods/ebama.md, section 3): [objects].

    probabilities: after the softmax over tokens, [images, height, width, positions]; objects: an image and a token.
    """
    return smooth(token_means(probabilities, [(image, (token,)) for image, token in objects])).flatten(1).amax(1)


@register(
    "ebama",
    summary="Binds attributes to objects and keeps every object's attention strong, objects without attributes too.",
    paper="Zhang, Yu, Wu, ECCV 2024, arXiv 2404.07389",
)
@dataclass(frozen=True, kw_only=True)
class Ebama(TokenSoftmax):
    """EBAMA, object-conditioned energy-based attention map alignment (Zhang et al., ECCV 2024, arXiv 2404.07389).

    The default variant repairs the published code in these points: the object of "the apple is red" is the apple;
    repeated words are bound by position; capitals and names align; an object of several tokens enters once; an
    object whose attributes own no token is repelled like a bare one; for text encoders of Stable Diffusion 2.x the
    end-of-text and padding positions stay out of the softmax over tokens. In both variants a prompt without nouns
    is left alone, an object with no token outside its group is not repelled, and everything is computed in float32
    for every image of a batch. The window is the published code's: 26 of 50 or 51 iterations.
    """

    stop: float = option(0.52, "guide up to this fraction of sampling")
    distance: Literal["kl", "cosine", "tv"] = option(
        "cosine",
        "how two maps are compared: symmetric Kullback-Leibler divergence, cosine distance or total variation",
    )
    intensity_weight: float = option(
        0.5, "weight of the term that strengthens every object (lambda)", at_least=0, at_most=1000
    )

    def focus(self, context: Context) -> list[list[int]]:
        """Every object's token positions, modifiers first."""
        return [[i for word in group for i in word] for group in word_groups(context.prompt)]

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The binding loss less the weighted intensity term, of either sign; 0 without objects."""
        attention = self.attention(maps)
        groups = [word_groups(now.prompt, lost_words=self.variant == "reference") for now in contexts]
        pairs = [
            [pair for group in own for pair in ebama_pairs(group, prompt_words(now.prompt), self.distance)]
            for now, own in zip(contexts, groups, strict=True)
        ]
        positive, negative = pair_loss(attention, pairs, self.distance)
        loss = positive + negative
        if self.intensity_weight:
            # only the first piece of an object's word enters here
            objects = [(image, group[-1][0]) for image, own in enumerate(groups) for group in own]
            peaks = object_peaks(self.token_softmax(attention, contexts), objects)
            loss = loss - self.intensity_weight * Owners(tuple(i for i, _ in objects), len(contexts)).sum(peaks)
        return Evaluation(loss)
