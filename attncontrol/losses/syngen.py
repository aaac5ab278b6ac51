"""SynGen: modifiers attend where their noun does and no other word does (Rassin et al., arXiv 2306.08877)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from attncontrol.attention.maps import AttentionMaps
from attncontrol.losses.base import Context, Evaluation, Method, option
from attncontrol.losses.registry import register
from attncontrol.losses.words import Group, Pair, pair_loss, prompt_words, repulsion, word_groups


def syngen_pairs(group: Group, words: Sequence[int]) -> list[Pair]:
    """The pairs of words that one group attracts and repels (docs/methods/syngen.md, section 3).

    Args:
        group: Modifiers, then the noun, each as token positions.
        words: The positions of the prompt's words.

    Returns:
        d(m, n) - (R(m) + R(n)) / 2 for every modifier m of the noun n, or -R(n) of a noun alone.
    """
    *modifiers, noun = group
    if not modifiers:
        return repulsion(noun, group, words, 1.0)
    pairs = [Pair(modifier, noun, 1.0) for modifier in modifiers]
    for modifier in modifiers:
        pairs += repulsion(modifier, group, words, 0.5)
    return pairs + repulsion(noun, group, words, 0.5 * len(modifiers))


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

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The loss over all groups, of either sign; 0 without any."""
        pairs = [
            [pair for group in self.groups(now) for pair in syngen_pairs(group, prompt_words(now.prompt))]
            for now in contexts
        ]
        positive, negative = pair_loss(self.attention(maps), pairs, self.distance)
        return Evaluation(positive + negative)
