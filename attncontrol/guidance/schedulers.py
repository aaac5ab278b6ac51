"""What guidance must know of diffusers schedulers: the scale of their samples, and which model calls move on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def input_scale(scheduler: Any, timestep: Any, device: torch.device) -> Tensor:
    """The factor from the scheduler's sample to the model's input at the present step: float32, one entry.

    1 for DDIM, PNDM, DPM++ and their like; 1 / sqrt(sigma^2 + 1) for Euler, LMS, Heun and theirs.
    """
    one = torch.ones(1, dtype=torch.float32, device=device)
    return scheduler.scale_model_input(one, timestep).float()


def starting_calls(scheduler: Any, calls: int) -> list[bool]:
    """For each of the next `calls` model calls, whether the scheduler's next sample starts from the one it is given.

    Solvers of higher order call the model again within one step and then go back to the sample that the step began
    with: Heun, KDPM2 and DPM++ SDE in every second call, the Runge-Kutta phase of PNDM in three of four. A move of
    the sample in such a call would be thrown away. (PNDM without that phase does so in its second call; it counts as
    a step of its own, as in the published code of all methods.)
    """
    if getattr(scheduler, "prk_timesteps", None) is not None and not scheduler.config.skip_prk_steps:
        return [i >= len(scheduler.prk_timesteps) or i % 4 == 0 for i in range(calls)]
    return [i % scheduler.order == 0 for i in range(calls)]


def keep_given_sample(scheduler: Any) -> None:
    """Lets the coming step start from the sample it is given: no corrector goes back to the last one.

    The correctors of UniPC and SA-Solver replace the sample by one computed from the step before, and a move of it
    would be lost. They correct again after the next step that is not guided.
    """
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = None
