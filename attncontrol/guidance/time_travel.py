"""Time travel: a guided step is taken, noise is added back, and it is guided anew (docs/methods/index.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncontrol.attention.maps import index_tensor
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.guidance.levels import (
    Level,
    check_levels,
    guided_output,
    longer_step,
    noised_back,
    output_of,
    predicts,
)
from attncontrol.losses.best_start import reordered

FIRST = 1000  # the number of the first order of the noise, beyond those of starts and tries


def travelled(
    guided: GuidedPass, seen: Tensor, moved: Tensor, rows: Sequence[int], noise: Tensor, index: int, count: int
) -> Tensor:
    """Latents at the level of a step that has been taken: with what it made of the picture, and with other noise.

    Args:
        guided: The step's denoiser call, and what its last whole pass gave, if there was one.
        seen: [images, ...], what the denoiser is called with.
        moved: [images, ...], what the scheduler would step from.
        rows: The images that travel; the others stay at `moved`.
        noise: [images, ...], what sampling started from. The noise that is added are its numbers in another order.
        index: The step, from 0.
        count: The number of steps.

    Returns:
        [images, ...], no image's depending on another one.

    Raises:
        ValueError: For a pipeline or a scheduler of whose steps too little is known.
    """
    check_levels(guided, "time_travel", "adds back the noise that sampling starts from")
    scheduler = guided.family.pipe.scheduler
    if getattr(scheduler, "order", 1) != 1:
        raise ValueError(f"time_travel: a {type(scheduler).__name__} calls the model several times in a step")
    chosen = index_tensor(rows, moved.device)
    with torch.no_grad():
        if (whole := guided.whole_output(seen)) is None:
            output = output_of(guided, guided.call, seen[chosen], rows)
        else:
            output = guided_output(guided, whole[0], seen)[chosen]
        now, then = (Level.of(scheduler, step / count) for step in (index, index + 1))
        ahead = longer_step(moved[chosen], output, now, then, predicts(scheduler))
        back = noised_back(ahead, then, now, reordered(noise[chosen], FIRST + index))
    return moved.index_copy(0, chosen, back)
