"""A FLUX transformer asked directly, step by step along the noise levels of its pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """A prompt as the transformer reads it: states [1, positions, width], pooled [1, width], ids [positions, 3]."""

    states: Tensor
    pooled: Tensor
    ids: Tensor


class Flow:
    """Velocities and Euler steps for packed latents [rows, tokens, channels] of one size.

    Args:
        transformer: A `FluxTransformer2DModel`.
        sigmas: Noise levels [steps + 1], from 1 to 0.
        ids: Positions of the image's tokens, [tokens, 3].
    """

    def __init__(self, transformer: Any, sigmas: Tensor, ids: Tensor) -> None:
        self.transformer, self.sigmas, self.ids = transformer, sigmas, ids

    @property
    def steps(self) -> int:
        """Of sampling."""
        return len(self.sigmas) - 1

    def velocity(self, latents: Tensor, sigma: Tensor, texts: Sequence[Text], guidance: Sequence[float]) -> Tensor:
        """What the transformer says at a noise level, for a text and a guidance scale per row."""
        scales = None
        if self.transformer.config.guidance_embeds:
            scales = torch.tensor(guidance, dtype=torch.float32, device=latents.device)
        level = (sigma * 1000).expand(len(latents)).to(latents.dtype)
        return self.transformer(
            hidden_states=latents,
            timestep=level / 1000,
            guidance=scales,
            pooled_projections=torch.cat([text.pooled for text in texts]),
            encoder_hidden_states=torch.cat([text.states for text in texts]),
            txt_ids=texts[0].ids,
            img_ids=self.ids,
            return_dict=False,
        )[0]

    def step(self, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
        """The latents after a step, computed in float32."""
        moved = latents.float() + (self.sigmas[index + 1] - self.sigmas[index]) * velocity
        return moved.to(velocity.dtype)

    def noised(self, latents: Tensor, noise: Tensor, index: int) -> Tensor:
        """Clean latents at the noise level before a step, computed in float32."""
        sigma = self.sigmas[index]
        return ((1 - sigma) * latents.float() + sigma * noise.float()).to(latents.dtype)


def sigmas_of(scheduler: Any, steps: int, tokens: int) -> Tensor:
    """The noise levels [steps + 1] with which `FluxPipeline` samples so many tokens; the scheduler stays as it is."""
    own = type(scheduler).from_config(scheduler.config)
    named = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(tokens, *(own.config.get(n, d) for n, d in zip(named, (256, 4096, 0.5, 1.15), strict=True)))
    own.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return own.sigmas
