"""Drafts: what a noise leads to, seen after a few long steps of the noise level (docs/methods/best_start.md)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attncontrol.attention.maps import index_tensor
from attncontrol.families.base import Family
from attncontrol.families.compiled import uncompiled
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.guidance.round import Part
from attncontrol.guidance.schedulers import keeps_float32
from attncontrol.guidance.targets import GuidedImage
from attncontrol.losses.base import Context


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


class Draft:
    """Answers `Look` for one part: drafts from noises with the pipeline's own call, and the part's loss of them.

    Args:
        guided: The run's first denoiser call.
        part: Whose loss and layers.
        images: The images it is asked about, in the order of their rows.
        contexts: What is known of each.
    """

    def __init__(
        self, guided: GuidedPass, part: Part, images: Sequence[GuidedImage], contexts: Sequence[Context]
    ) -> None:
        self.guided, self.part, self.images, self.contexts = guided, part, images, contexts
        self.family: Family = guided.family
        self.scheduler = self.family.pipe.scheduler

    def __call__(self, starts: Tensor, ahead: Sequence[float], rows: Sequence[int]) -> Tensor:
        """The loss of every draft, also noted in the images' records. Raises ValueError where none can be made."""
        self._check()
        images = [self.images[row] for row in rows]
        with torch.no_grad():
            now, latents = Level.of(self.scheduler, 0), starts
            for fraction in ahead:
                then = Level.of(self.scheduler, fraction)
                output = self._output(latents, now.timestep, [image.row for image in images])
                latents = longer_step(latents, output, now, then, predicts(self.scheduler))
                now = then
            losses = self._losses(latents, now.timestep, images, [self.contexts[row] for row in rows])
        for image, loss in zip(images, losses.tolist(), strict=True):
            image.record.drafts.append(loss)
        return losses

    def _check(self) -> None:
        """Raises ValueError for a run that does not start from noise alone, or whose time cannot be set."""
        pipe, call = self.family.pipe, self.guided.call
        if "strength" in inspect.signature(type(pipe).__call__).parameters or getattr(pipe, "begins_late", False):
            raise ValueError(
                f"{self.part.method.name} chooses the noise that sampling starts from, and a {type(pipe).__name__} "
                "starts from a picture: leave it out"
            )
        hides_scale = self.guided.copies > 1 and getattr(pipe, "guidance_scale", None) is None
        if "timestep" not in call or hides_scale:
            raise ValueError(f"{self.part.method.name}: no draft can be made with a {type(pipe).__name__}")

    def _output(self, latents: Tensor, timestep: float, rows: Sequence[int]) -> Tensor:
        """The denoiser's output for some images with the pipeline's guidance scale: float32, shaped as the latents."""
        guided, family = self.guided, self.family
        every = [copy * guided.images + row for copy in range(guided.copies) for row in rows]
        call = family.rows(family.at_timestep(guided.call, timestep), guided.batch, every)
        call = family.with_latents(call, torch.cat([latents.to(guided.dtype)] * guided.copies))
        with uncompiled() if family.parts.is_compiled else nullcontext():
            output = family.prediction(family.run(call)[0].float())
        if output.shape[1] == 2 * latents.shape[1]:  # the other half is a learned variance
            output = output[:, : latents.shape[1]]
        copies = output.chunk(guided.copies)
        if guided.copies == 1:
            return copies[0]
        with_text, without = copies[guided.conditional], copies[1 - guided.conditional]
        return without + self.family.pipe.guidance_scale * (with_text - without)

    def _losses(
        self, latents: Tensor, timestep: float, images: Sequence[GuidedImage], contexts: Sequence[Context]
    ) -> Tensor:
        """The part's loss at latents of some images: float32 [images] on the CPU."""
        guided, rows = self.guided, [image.row for image in images]
        call = self.family.at_timestep(guided.call, timestep)
        looking = GuidedPass(self.family, call, self.family.running(self.part.layers), prompts=guided.prompts)
        every = guided.start.index_copy(0, index_tensor(rows, latents.device), latents)
        with looking.run(every, rows) as (_, maps):
            return self.part.method.evaluate(maps.of(self.part.layers, self.part.method.keys), contexts).loss.cpu()
