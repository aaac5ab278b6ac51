"""Redraw: an image whose attention says at the end that it is wrong is drawn anew (docs/methods/redraw.md)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps
from attncontrol.losses.base import Context, Evaluation, Method, Refinement, at_iteration, option
from attncontrol.losses.combining import parse_terms
from attncontrol.losses.registry import create_method, register


@register(
    "redraw",
    summary="Draws an image anew if its own attention says at the end that a thing is missing or in another colour.",
    paper="losses of CONFORM, arXiv 2312.06059, and SynGen, arXiv 2306.08877; the rule is this project's",
)
@dataclass(frozen=True, kw_only=True)
class Redraw(Method):
    """A judge of finished images, which asks for another one where one is not good enough.

    Late in sampling, when the picture is all but made, it reads the losses of other methods. An image of more than
    `enough` is drawn again from other noise, up to `tries` times in all, and the best of its pictures is kept. It
    works alone and beside every method; as a part of a sum its weight has no effect. With a `step_size` it guides,
    too, down that loss. It needs the call of a controlled pipeline: `attach` refuses it.
    """

    step_size: float = option(0.0, "length of a step down the gradient with respect to the latents; 0 only judges")
    relative_step: float | None = option(
        None,
        "length of a step as a fraction of the latents' norm, in place of step_size",
        at_least=0,
        at_most=100,
    )
    by: str = option("conform + syngen", "whose losses judge an image, in published settings: 'conform + 0.5*ebama'")
    at: float = option(0.8, "the fraction of sampling at which an image is judged", at_least=0, at_most=0.999)
    enough: float | None = option(
        None,
        "an image of this loss or less is kept at once; by default all tries are drawn",
        at_least=-100,
        at_most=100,
    )
    tries: int = option(3, "most pictures that are drawn of an image, the first one included", at_least=1, at_most=16)

    def __post_init__(self) -> None:
        """As of every method; `by` must name others."""
        super().__post_init__()
        with self._named_errors():
            if any(method.name == self.name for _, method in self.judges):
                raise ValueError(f"by must name other methods, got {self.by!r}")

    @functools.cached_property
    def judges(self) -> tuple[tuple[float, Method], ...]:
        """The methods of `by` and their weights."""
        settings = {"variant": self.variant, "keys": self.keys, "resolution": self.resolution, "layers": self.layers}
        return tuple((weight, create_method(name, **settings)) for weight, name in parse_terms(self.by))

    def check(self, context: Context) -> None:
        """What each of them asks of a prompt and its layout."""
        for _, method in self.judges:
            method.check(context)

    def select_layers(self, layers: Sequence[Layer]) -> list[Layer]:
        """Those of all of them."""
        wanted = {layer.name for _, method in self.judges for layer in method.select_layers(layers)}
        return [layer for layer in layers if layer.name in wanted]

    def focus(self, context: Context) -> list[list[int]]:
        """Those of all of them; without any an image is not judged."""
        return [group for _, method in self.judges for group in method.focus(context)]

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The weighted sum of their losses; where one compares with the step before, these maps are that step's."""
        losses = []
        for weight, method in self.judges:
            own = maps.of(method.select_layers([m.layer for m in maps.layers]))
            found = method.evaluate(own, contexts)
            if found.carries is not None:
                kept = zip(contexts, found.carries, strict=True)
                found = method.evaluate(own, [dataclasses.replace(now, carry=carry) for now, carry in kept])
            losses.append(weight * found.loss)
        return Evaluation(sum(losses[1:], losses[0]))

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
