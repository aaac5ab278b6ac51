"""What guidance must know of diffusers schedulers: which model calls move on, and what their steps need."""

from __future__ import annotations

from typing import Any


def keeps_float32(scheduler: Any) -> bool:
    """Whether `step` casts a float32 sample by itself: in bfloat16 a small move would be lost by rounding."""
    return "FlowMatch" in type(scheduler).__name__


def noise_levels(scheduler: Any) -> tuple[float, float]:
    """The noise level, 1 to 0, of the step that is to come and of the one behind it, of a flow-matching scheduler."""
    index = scheduler.step_index if scheduler.step_index is not None else scheduler.begin_index or 0
    now, following = scheduler.sigmas[index : index + 2].tolist()
    return now, following


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
