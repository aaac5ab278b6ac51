"""SynGen: modifiers attend where their noun does and no other word does (Rassin et al., arXiv 2306.08877)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attncontrol.attention.maps import AttentionMaps
from attncontrol.losses.base import Context, Evaluation, Method, option
from attncontrol.losses.registry import register
from attncontrol.losses.words import Group, distributions, prompt_words, tokens_outside, word_distances, word_groups


def syngen_terms(maps: Tensor, group: Group, words: Sequence[int], distance: str = "kl") -> tuple[Tensor, Tensor]:
    """Attraction and repulsion of every (modifier, noun) pair of one group (SynGen, section 6).

    maps: distributions [tokens, pixels]; group: modifiers, then the noun, each as token positions. Returns
    D(m, n) and (R(m) + R(n)) / 2, both [modifiers], where R is the mean distance to the prompt's tokens outside
    the group. A noun alone has no attraction [0] and its own R as repulsion [1].
    """
    *modifiers, noun = group
    outside = tokens_outside(group, words)
    repulsion = maps.new_zeros(len(group))
    if outside:
        repulsion = word_distances(maps, group, outside, distance).mean(1)
    if not modifiers:
        return maps.new_zeros(0), repulsion
    return word_distances(maps, modifiers, [noun], distance)[:, 0], (repulsion[:-1] + repulsion[-1]) / 2


def syngen_loss(
    attention: Tensor, groups: Sequence[Group], words: Sequence[int], distance: str = "kl"
) -> tuple[Tensor, Tensor]:
    """Positive and negative part of the loss, two scalars to be added (SynGen, section 6).

    attention: [height, width, positions], its scale per token does not matter; words: the positions of the
    prompt's words. Without groups both are a constant 0.
    """
    maps = distributions(attention)
    positive, negative = maps.new_zeros(()), maps.new_zeros(())
    for group in groups:
        attraction, repulsion = syngen_terms(maps, group, words, distance)
        positive, negative = positive + attraction.sum(), negative - repulsion.sum()
    return positive, negative


@register(
    "syngen",
    summary="Binds adjectives to their nouns: each modifier attends where its noun does and no other word does.",
    paper="Rassin et al., NeurIPS 2023, arXiv 2306.08877",
)
@dataclass(frozen=True, kw_only=True)
class SynGen(Method):
    """SynGen (Rassin et al., NeurIPS 2023, arXiv 2306.08877).

    The default variant repairs the published code in these points: the groups are those of this prompt, never of
    an earlier one; the noun of "the apple is red" is the apple; coordinated and relative clauses keep each noun's
    own modifiers, for every noun; "next to" modifies nothing; a hyphen belongs to its word and is not repelled;
    accented words align; a prompt without nouns is left alone; words the text encoder cut off are ignored, and so
    is a noun that lost all its modifiers this way. Both variants compute in float32 for every image of a batch,
    and an exact zero in a map costs a finite amount.
    """

    include_entities: bool = option(False, "repel nouns without modifiers from the other words, too")
    distance: Literal["kl", "cosine", "tv"] = option(
        "kl", "how two maps are compared: symmetric Kullback-Leibler divergence, cosine distance or total variation"
    )

    def groups(self, context: Context) -> list[Group]:
        """The groups of words that take part, each with its noun last."""
        groups = word_groups(context.prompt, lost_words=self.variant == "reference")
        chosen = [group for group in groups if len(group) > 1 or self.include_entities]
        return [[word for word in group if word] for group in chosen]

    def focus(self, context: Context) -> list[list[int]]:
        """Every group's token positions, modifiers first."""
        return [[i for word in group for i in word] for group in self.groups(context)]

    def evaluate(self, maps: AttentionMaps, context: Context) -> Evaluation:
        """The loss over all groups, of either sign; a constant 0 without any."""
        attention = maps.mean_cross(self.map_size([m.layer for m in maps.layers]))
        positive, negative = syngen_loss(attention, self.groups(context), prompt_words(context.prompt), self.distance)
        return Evaluation(positive + negative)

    def plain_step_size(self, context: Context) -> float:
        """The constant step size inside the window if there is a group, else 0."""
        return super().plain_step_size(context) if self.groups(context) else 0.0
