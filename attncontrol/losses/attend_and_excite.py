"""Attend-and-Excite: every subject's map must reach the maximum somewhere (Chefer et al., arXiv 2301.13826)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from attncontrol.attention.maps import AttentionMaps, Owners, token_means
from attncontrol.losses.base import Context, Evaluation
from attncontrol.losses.common import SmoothedMaps, ThresholdRefinement, TokenSoftmax
from attncontrol.losses.registry import register


def attend_and_excite_loss(maps: Tensor, owners: Owners) -> tuple[Tensor, Tensor]:
    """Loss of every image's most neglected subject (docs/methods/attend_and_excite.md, section 5).

    Args:
        maps: [subjects, height, width], the prepared map in 0..1 of every subject of every image.
        owners: The image of each subject.

    Returns:
        The loss [images] in 0..1, 0 for an image without subjects, and that of every subject, 1 - max [subjects].
        Among equal subjects the first one gets the gradient; exactly equal maxima inside one map share it; a loss of
        exactly 0 has none.
    """
    losses = (1 - maps.flatten(1).amax(1)).relu()
    return owners.largest(losses), losses


@register(
    "attend-and-excite",
    summary="Raises the attention of the most neglected subject, so that no object is left out.",
    paper="Chefer et al., SIGGRAPH 2023, arXiv 2301.13826",
)
@dataclass(frozen=True, kw_only=True)
class AttendAndExcite(ThresholdRefinement, TokenSoftmax, SmoothedMaps):
    """Attend-and-Excite (Chefer et al., SIGGRAPH 2023, arXiv 2301.13826).

    The default variant repairs the published code in three points: for text encoders of Stable Diffusion 2.x the
    end-of-text and padding positions stay out of the softmax over tokens; a subject of several tokens is the mean
    of their maps instead of one subject per token; smoothing kernels other than 3 keep the size of the map.
    """

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The worst subject's loss; without gradient where it is exactly 0."""
        subjects, owners = self.subject_maps(self.attention(maps), contexts)
        return Evaluation(attend_and_excite_loss(subjects, owners)[0])

    def subject_maps(self, attention: Tensor, contexts: Sequence[Context]) -> tuple[Tensor, Owners]:
        """Prepared maps [subjects, height, width] from mean attention [images, height, width, positions]."""
        subjects = [(image, word) for image, now in enumerate(contexts) for word in self.focus(now)]
        probabilities = self.token_softmax(attention, contexts)
        maps = self.smoothed(token_means(probabilities, subjects, contexts[0].text))
        return maps, Owners(tuple(image for image, _ in subjects), len(contexts))

    def focus(self, context: Context) -> list[list[int]]:
        """The token positions of every subject; in the reference variant each token is one."""
        words = super().focus(context)
        return words if self.variant == "default" else [[i] for word in words for i in word]
