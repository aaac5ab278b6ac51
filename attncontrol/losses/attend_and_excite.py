"""Attend-and-Excite: every subject's map must reach the maximum somewhere (Chefer et al., arXiv 2301.13826)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attncontrol.attention.maps import AttentionMaps, resoftmax, token_means
from attncontrol.losses.base import Context, Evaluation, Refinement, option
from attncontrol.losses.common import SmoothedMaps, ThresholdRefinement
from attncontrol.losses.registry import register


def attend_and_excite_loss(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of the most neglected subject (A&E, section 6).

    maps: [subjects, height, width], each subject's prepared map in 0..1. Returns the loss, a scalar in 0..1, and
    the loss 1 - max of every subject [subjects]. Among equal subjects the first one gets the gradient; exactly
    equal maxima inside one map share it; a loss of exactly 0 has none. Without subjects the loss is a constant 0.
    """
    if not len(maps):
        return maps.new_zeros(()), maps.new_zeros(0)
    losses = (1 - maps.flatten(1).amax(1)).relu()
    return losses.gather(0, losses.argmax(0, keepdim=True))[0], losses


@register(
    "attend-and-excite",
    summary="Raises the attention of the most neglected subject, so that no object is left out.",
    paper="Chefer et al., SIGGRAPH 2023, arXiv 2301.13826",
)
@dataclass(frozen=True, kw_only=True)
class AttendAndExcite(ThresholdRefinement, SmoothedMaps):
    """Attend-and-Excite (Chefer et al., SIGGRAPH 2023, arXiv 2301.13826).

    The default variant repairs the published code in three points: for text encoders of Stable Diffusion 2.x the
    end-of-text and padding positions stay out of the softmax over tokens; a subject of several tokens is the mean
    of their maps instead of one subject per token; smoothing kernels other than 3 keep the size of the map.
    """

    softmax_scale: float = option(
        100.0,
        "factor on the probabilities before the softmax over tokens; smaller where maxima of 1 come too early",
        at_least=0,
        at_most=10_000,
    )
    normalize_eot: bool | None = option(
        None, "leave end of text and padding out of the softmax; by default only for 2.x text encoders"
    )

    def evaluate(self, maps: AttentionMaps, context: Context) -> Evaluation:
        """The worst subject's loss; differentiable unless it is exactly 0."""
        size = self.map_size([m.layer for m in maps.layers])
        subjects = self.subject_maps(maps.mean_cross(size), context)
        return Evaluation(attend_and_excite_loss(subjects)[0])

    def subject_maps(self, attention: Tensor, context: Context) -> Tensor:
        """Prepared maps [subjects, height, width] from mean attention [height, width, positions] (sections 4, 5)."""
        probabilities = resoftmax(attention, self.softmax_spans(context, self.normalize_eot), self.softmax_scale)
        return self.smoothed(token_means(probabilities, self._positions(context), context.text))

    def _positions(self, context: Context) -> list[list[int]]:
        words = [list(entity.noun.token_indices) for entity in context.prompt.entities]
        return [word for word in words if word] if self.variant == "default" else [[i] for word in words for i in word]

    def plain_step_size(self, context: Context) -> float:
        """The decayed step size inside the window, 0 outside or without subjects (section 7)."""
        return super().plain_step_size(context) if self._positions(context) else 0.0

    def refine(self, context: Context) -> Refinement:
        """Move until the loss meets the threshold of this iteration, if there are subjects (section 8)."""
        if self._positions(context):
            yield from super().refine(context)
