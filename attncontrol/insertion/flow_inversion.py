"""From a picture's latents to noise against the flow, by steps that are solved for where they lead (Add-it's code)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

ITERATIONS = 2

Velocity = Callable[[Tensor, Tensor], Tensor]


def invert_flow(latents: Tensor, sigmas: Tensor, velocity: Velocity, iterations: int = ITERATIONS) -> list[Tensor]:
    """The latents of every noise level, from noise to the picture's.

    A step of sampling asks the model at its noisier end. To undo it the model must be asked there, too, which is not
    known yet: the step is taken with the velocity here first, and then again with the velocity where that led.

    Args:
        latents: The picture's, [1, tokens, channels].
        sigmas: Noise levels [steps + 1], from 1 to 0.
        velocity: The model's, of latents and a noise level.
        iterations: How often each step is taken.

    Returns:
        steps + 1 latents, the last of them those given.
    """
    path = [latents]
    levels = sigmas.flip(0)
    for here, there in pairwise(levels):
        guess, level = path[-1], here
        for _ in range(iterations):
            flow = velocity(guess, level)
            guess, level = (path[-1].float() + (there - here) * flow).to(latents.dtype), there
        path.append(guess)
    return path[::-1]
