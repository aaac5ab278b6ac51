"""Drafts: what a noise leads to, seen after a few long steps of the noise level (docs/methods/best_start.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncontrol.attention.maps import index_tensor
from attncontrol.families.base import Family
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.guidance.levels import Level, check_levels, longer_step, output_of, predicts
from attncontrol.guidance.round import Part
from attncontrol.guidance.targets import GuidedImage
from attncontrol.losses.base import Context


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
        check_levels(self.guided, self.part.method.name)
        images = [self.images[row] for row in rows]
        with torch.no_grad():
            now, latents = Level.of(self.scheduler, 0), starts
            for fraction in ahead:
                then = Level.of(self.scheduler, fraction)
                call = self.family.at_timestep(self.guided.call, now.timestep)
                output = output_of(self.guided, call, latents, [image.row for image in images])
                latents = longer_step(latents, output, now, then, predicts(self.scheduler))
                now = then
            losses = self._losses(latents, now.timestep, images, [self.contexts[row] for row in rows])
        for image, loss in zip(images, losses.tolist(), strict=True):
            image.record.drafts.append(loss)
        return losses

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
