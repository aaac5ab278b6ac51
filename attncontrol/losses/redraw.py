"""Redraw: an image whose attention says at the end that it is wrong is drawn anew (docs/methods/redraw.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from attncontrol.attention.maps import AttentionMaps
from attncontrol.losses.base import Context, Evaluation, Refinement, at_iteration, option
from attncontrol.losses.conform import Conform
from attncontrol.losses.registry import register
from attncontrol.losses.syngen import SynGen


@register(
    "redraw",
    summary="Draws an image anew if its own attention says at the end that a thing is missing or in another colour.",
    paper="losses of CONFORM, arXiv 2312.06059, and SynGen, arXiv 2306.08877; the rule is this project's",
)
@dataclass(frozen=True, kw_only=True)
class Redraw(SynGen):
    """A judge of finished images, which asks for another one where one is not good enough.

    Late in sampling, when the picture is all but made, it reads the sum of CONFORM's loss and SynGen's. An image of
    more than `enough` is drawn again from other noise, up to `tries` times in all, and the best of its pictures is
    kept. It works alone and beside every method; as a part of a sum its weight has no effect. With a `step_size` it
    guides, too, down that loss. It needs the call of a controlled pipeline: `attach` refuses it.
    """

    step_size: float = option(0.0, "length of a step down the gradient with respect to the latents; 0 only judges")
    relative_step: float | None = option(
        None,
        "length of a step as a fraction of the latents' norm, in place of step_size",
        at_least=0,
        at_most=100,
    )
    at: float = option(0.8, "the fraction of sampling at which an image is judged", at_least=0, at_most=0.999)
    enough: float | None = option(
        None,
        "an image of this loss or less is kept at once; by default all tries are drawn",
        at_least=-100,
        at_most=100,
    )
    tries: int = option(3, "most pictures that are drawn of an image, the first one included", at_least=1, at_most=16)

    def focus(self, context: Context) -> list[list[int]]:
        """Every entity's token positions; an image of fewer than two things and no modifier is not judged."""
        groups = Conform().groups(context)
        return groups if len(groups) > 1 or super().focus(context) else []

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """CONFORM's loss, these maps in the place of earlier ones, and SynGen's; 0 without anything for either."""
        own = self.attention(maps).detach()
        as_before = [dataclasses.replace(now, carry=own[image]) for image, now in enumerate(contexts)]
        apart = Conform(variant=self.variant).evaluate(maps, as_before).loss
        return Evaluation(apart + super().evaluate(maps, contexts).loss)

    def refine(self, context: Context) -> Refinement:
        """One look, without a move."""
        if at_iteration(self.at, context.count) == context.index:
            yield 0.0

    @property
    def pictures(self) -> tuple[int, int]:
        """All tries, or fewer where one may be enough."""
        return self.tries if self.enough is None else 1, self.tries

    def accepts(self, loss: float) -> bool:
        """Whether an image of this loss is kept without another try."""
        return self.enough is not None and loss <= self.enough
