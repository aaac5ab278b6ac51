"""Settings that several methods share, with what they do: derive from the ones a method has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attncontrol.attention.maps import resoftmax, smooth
from attncontrol.losses.base import Context, Method, Refinement, at_iteration, option


@dataclass(frozen=True, kw_only=True)
class TokenSoftmax(Method):
    """A method that compares the tokens at every pixel by a softmax over them."""

    normalize_eot: bool | None = option(
        None, "leave end of text and padding out of the softmax; by default only for 2.x text encoders"
    )
    softmax_scale: float = option(
        100.0,
        "factor on the probabilities before the softmax over tokens; smaller where maxima of 1 come too early",
        at_least=0,
        at_most=10_000,
    )

    def token_softmax(self, attention: Tensor, contexts: Sequence[Context]) -> Tensor:
        """`resoftmax` of mean attention [images, height, width, positions] over each image's own positions."""
        spans = [self.softmax_spans(now, self.normalize_eot) for now in contexts]
        return resoftmax(attention, spans, self.softmax_scale)


@dataclass(frozen=True, kw_only=True)
class SmoothedMaps(Method):
    """A method that smooths its maps."""

    reference_padding: ClassVar[int | None] = 1  # of the published code, whatever the kernel; None keeps the size

    smoothing: bool = option(True, "smooth the maps")
    kernel_size: int = option(3, "side of the smoothing kernel, odd", at_least=1, at_most=31)
    sigma: float = option(0.5, "width of the smoothing kernel", at_least=0.01, at_most=100)

    def smoothed(self, maps: Tensor) -> Tensor:
        """Maps [..., height, width], smoothed if the setting says so."""
        if not self.smoothing:
            return maps
        padding = self.reference_padding if self.variant == "reference" else None
        return smooth(maps, self.kernel_size, self.sigma, padding)


@dataclass(frozen=True, kw_only=True)
class DecayingStep(Method):
    """A method whose steps become smaller over sampling."""

    scale_range: tuple[float, float] = option(
        (1.0, 0.5),
        "the step size is multiplied by the root of a line from the first to the second over sampling",
        at_least=0,
        at_most=1000,
    )

    def decayed_step_size(self, context: Context) -> float:
        """The base step times the root of a line between the two numbers over all iterations.

        See docs/methods/attend_and_excite.md, section 6.
        """
        first, last = self.scale_range
        fraction = context.index / max(context.count - 1, 1)
        return self.base_step * math.sqrt(first + (last - first) * fraction)

    def plain_step_size(self, context: Context) -> float:
        """The decayed step size inside the window, 0 outside."""
        return self.decayed_step_size(context) if self.guides(context) else 0.0


@dataclass(frozen=True, kw_only=True)
class ThresholdRefinement(DecayingStep):
    """A method that refines at a few steps until its monitor, in 0..1, is low enough."""

    thresholds: dict[float, float] = option(
        {0: 0.05, 0.2: 0.5, 0.4: 0.8},
        "steps that refine until every subject's attention reaches the value; a key below 1 is a fraction of "
        "sampling, from 1 on an iteration",
        at_least=0,
    )
    max_refinement_steps: int = option(20, "most refinement moves in one sampling step", at_least=0, at_most=100)

    def refine(self, context: Context) -> Refinement:
        """Move until the monitor meets 1 - the threshold of this iteration.

        See docs/methods/attend_and_excite.md, section 7. The value that is tested belongs to the latents before its
        move, so one move follows after success.
        """
        schedule = {at_iteration(key, context.count): value for key, value in self.thresholds.items()}
        threshold = schedule.get(context.index)
        if threshold is None:
            return
        worst = (yield 0.0).monitor
        for _ in range(self.max_refinement_steps):
            if worst <= max(0.0, 1 - threshold):
                return
            worst = (yield self.decayed_step_size(context)).monitor
