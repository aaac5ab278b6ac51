"""Places in sampling, and how latents get from one to another beside the scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attncontrol.families.base import Call
from attncontrol.families.compiled import uncompiled
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.guidance.schedulers import keeps_float32


@dataclass(frozen=True)
class Level:
    """A place in sampling: latents there are `signal` times the picture plus `noise` times normal noise.

    The scale is that of the model's input, in which these are the same for every scheduler of a model.
    """

    timestep: float
    signal: float
    noise: float

    @classmethod
    def of(cls, scheduler: Any, fraction: float) -> Level:
        """The level at a fraction of sampling. Raises ValueError for a scheduler that does not tell it."""
        index = int(fraction * len(scheduler.timesteps) + 1e-6)
        timestep = float(scheduler.timesteps[index])
        if predicts(scheduler) == "flow_prediction":
            noise = float(scheduler.sigmas[index])
            return cls(timestep, 1 - noise, noise)
        if getattr(scheduler, "alphas_cumprod", None) is None:
            raise ValueError(f"no draft can be made with a {type(scheduler).__name__}: its noise levels are not known")
        kept = float(scheduler.alphas_cumprod[round(timestep)])
        return cls(timestep, kept**0.5, (1 - kept) ** 0.5)


def predicts(scheduler: Any) -> str:
    """What the model's output is: "epsilon", "v_prediction", "sample" or "flow_prediction"."""
    return "flow_prediction" if keeps_float32(scheduler) else scheduler.config.get("prediction_type", "epsilon")


def longer_step(latents: Tensor, output: Tensor, now: Level, then: Level, kind: str) -> Tensor:
    """Latents at another level, without further noise (DDIM, arXiv 2010.02502, equation 12; Euler in flow matching).

    Args:
        latents: At the level `now`.
        output: The model's there.
        now: Where they are.
        then: Where they go.
        kind: What the output is, see `predicts`.
    """
    if kind == "flow_prediction":
        return latents + (then.noise - now.noise) * output
    if kind == "v_prediction":
        picture = now.signal * latents - now.noise * output
        noise = now.noise * latents + now.signal * output
    elif kind == "sample":
        picture, noise = output, (latents - now.signal * output) / now.noise
    else:
        picture, noise = (latents - now.noise * output) / now.signal, output
    return then.signal * picture + then.noise * noise


def check_levels(guided: GuidedPass, name: str) -> None:
    """Raises ValueError for a run that does not start from noise alone, or of whose steps too little is known.

    Args:
        guided: A denoiser call of the run.
        name: The method that chooses the noise.
    """
    pipe = guided.family.pipe
    if "strength" in inspect.signature(type(pipe).__call__).parameters or getattr(pipe, "begins_late", False):
        raise ValueError(
            f"{name} chooses the noise that sampling starts from, and a {type(pipe).__name__} starts from a picture: "
            "leave it out"
        )
    hides_scale = guided.copies > 1 and getattr(pipe, "guidance_scale", None) is None
    if "timestep" not in guided.call or hides_scale:
        raise ValueError(f"{name}: too little is known of the steps of a {type(pipe).__name__} to draft with it")


def output_of(guided: GuidedPass, call: Call, latents: Tensor, rows: Sequence[int]) -> Tensor:
    """What the model says of some images with the pipeline's guidance scale, by a call of its own.

    Args:
        guided: A denoiser call of the run.
        call: It, or one like it at another time.
        latents: [rows, ...].
        rows: The images.

    Returns:
        float32, shaped as the latents.
    """
    family = guided.family
    every = [copy * guided.images + row for copy in range(guided.copies) for row in rows]
    call = family.rows(call, guided.batch, every)
    call = family.with_latents(call, torch.cat([latents.to(guided.dtype)] * guided.copies))
    with uncompiled() if family.parts.is_compiled else nullcontext():
        output = family.prediction(family.run(call)[0].float())
    if output.shape[1] == 2 * latents.shape[1]:  # the other half is a learned variance
        output = output[:, : latents.shape[1]]
    copies = output.chunk(guided.copies)
    if guided.copies == 1:
        return copies[0]
    with_text, without = copies[guided.conditional], copies[1 - guided.conditional]
    return without + family.pipe.guidance_scale * (with_text - without)
