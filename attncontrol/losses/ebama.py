"""EBAMA: attributes follow their object, objects stay apart and strong (Zhang et al., arXiv 2404.07389)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attncontrol.attention.maps import AttentionMaps, index_tensor, resoftmax, smooth
from attncontrol.losses.base import Context, Evaluation, Method, option
from attncontrol.losses.registry import register
from attncontrol.losses.words import Group, distributions, prompt_words, tokens_outside, word_distances, word_groups


def binding_terms(maps: Tensor, group: Group, words: Sequence[int], distance: str = "cosine") -> tuple[Tensor, Tensor]:
    """Attraction of every attribute and repulsion of the object of one group (EBAMA, section 4).

    maps: distributions [tokens, pixels]; group: attributes, then the object, each as token positions. Returns the
    attributes' distances to the object [attributes], under cosine summed over an attribute's pieces and else their
    maximum, and the object's mean distance to the prompt's tokens outside the group, a scalar.
    """
    *attributes, target = group
    outside = tokens_outside(group, words)
    repulsion = maps.new_zeros(())
    if outside:
        repulsion = word_distances(maps, [target], outside, distance).mean()
    if not attributes:
        return maps.new_zeros(0), repulsion
    if distance != "cosine":
        return word_distances(maps, attributes, [target], distance)[:, 0], repulsion
    pieces = word_distances(maps, [(i,) for word in attributes for i in word], [target], distance)[:, 0]
    return torch.stack([part.sum() for part in pieces.split([len(word) for word in attributes])]), repulsion


def ebama_binding_loss(
    attention: Tensor, groups: Sequence[Group], words: Sequence[int], distance: str = "cosine"
) -> tuple[Tensor, Tensor]:
    """Positive and negative part of the binding loss, two scalars to be added (EBAMA, section 4).

    attention: [height, width, positions], its scale per token does not matter. An object is repelled once per
    attribute, a bare one once; one whose attributes are all empty tuples (they own no token) not at all.
    """
    maps = distributions(attention)
    positive, negative = maps.new_zeros(()), maps.new_zeros(())
    for group in groups:
        attraction, repulsion = binding_terms(maps, [word for word in group if word], words, distance)
        repulsions = len(attraction) if len(group) > 1 else 1
        positive, negative = positive + attraction.sum(), negative - repulsions * repulsion
    return positive, negative


def object_peaks(attention: Tensor, tokens: Sequence[int], spans: Sequence[slice]) -> Tensor:
    """Smoothed maximum, in 0..1, of each token's map after the softmax over tokens (EBAMA, section 5): [tokens].

    attention: mean probabilities [height, width, positions]; the softmax runs over every span of positions.
    """
    probabilities = resoftmax(attention, spans)[..., index_tensor(tokens, attention.device)]
    maps = smooth(probabilities.movedim(-1, 0))
    return maps.flatten(1).amax(1)


@register(
    "ebama",
    summary="Binds attributes to objects and keeps every object's attention strong, objects without attributes too.",
    paper="Zhang, Yu, Wu, ECCV 2024, arXiv 2404.07389",
)
@dataclass(frozen=True, kw_only=True)
class Ebama(Method):
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
    intensity_weight: float = option(0.5, "weight of the term that strengthens every object (lambda)", at_least=0)
    normalize_eot: bool | None = option(
        None, "leave end of text and padding out of the softmax; by default only for 2.x text encoders"
    )

    def focus(self, context: Context) -> list[list[int]]:
        """Every object's token positions, modifiers first."""
        return [[i for word in group for i in word] for group in word_groups(context.prompt)]

    def evaluate(self, maps: AttentionMaps, context: Context) -> Evaluation:
        """The binding loss plus the weighted intensity term, of either sign; a constant 0 without objects."""
        attention = maps.mean_cross(self.map_size([m.layer for m in maps.layers]))
        return Evaluation(self.loss(attention, context))

    def loss(self, attention: Tensor, context: Context) -> Tensor:
        """The total loss of mean attention [height, width, positions] (sections 4, 5)."""
        groups = word_groups(context.prompt, lost_words=self.variant == "reference")
        positive, negative = ebama_binding_loss(attention, groups, prompt_words(context.prompt), self.distance)
        if not groups or self.intensity_weight == 0:
            return positive + negative
        # Only the first piece of an object's word enters here (section 5).
        peaks = object_peaks(
            attention, [group[-1][0] for group in groups], self.softmax_spans(context, self.normalize_eot)
        )
        return positive + negative - self.intensity_weight * peaks.sum()

    def plain_step_size(self, context: Context) -> float:
        """The constant step size inside the window if there is an object, else 0."""
        return super().plain_step_size(context) if word_groups(context.prompt) else 0.0
