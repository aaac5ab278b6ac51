"""Null-text inversion: the unconditional text states of every step are learned, so that guided sampling comes back.

Mokady et al., "Null-text Inversion for Editing Real Images using Guided Diffusion Models", CVPR 2023,
arXiv 2211.09794.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attncontrol.editing.network import Network, guided
from attncontrol.editing.settings import PUBLISHED_STEPS, Settings
from attncontrol.losses.base import option


@dataclass(frozen=True, kw_only=True)
class NullText(Settings):
    """Settings of null-text inversion.

    The reference variant is what Dynamic Prompt Learning publishes: it starts every step from the empty prompt and
    never stops early. The default starts from what the step before has learned and stops when the step comes close
    enough to its goal.
    """

    variant: Literal["default", "reference"] = option(
        "default", "'reference' is the published code with its quirks, 'default' has its defects repaired"
    )
    iterations: int = option(10, "most updates in one step", at_least=0, at_most=1000)
    learning_rate: float = option(0.01, "of Adam at the first step; half of it at the last", at_least=0, at_most=10)
    tolerance: tuple[float, float] = option(
        (1e-5, 2e-5),
        "a step stops learning below the first number plus the second times the step's number in 50",
        at_least=0,
        at_most=10,
    )

    def learn(
        self, network: Network, latents: Tensor, index: int, states: Tensor, start: Tensor, goal: Tensor, scale: float
    ) -> tuple[Tensor, list[float]]:
        """The unconditional states with which one guided step from `latents` leads to `goal`.

        Args:
            network: What samples.
            latents: [1, channels, height, width] before the step.
            index: The step, from 0.
            states: Conditional text states [1, positions, width].
            start: Unconditional ones to begin with.
            goal: The latents of the inversion after the step.
            scale: Of guidance.

        Returns:
            The states, and the mean squared error before every update.
        """
        timestep = network.sampler.timesteps[index]
        place = index if self.variant == "reference" else index * PUBLISHED_STEPS / len(network.sampler.timesteps)
        enough = 0.0 if self.variant == "reference" else self.tolerance[0] + self.tolerance[1] * place
        learned = start.detach().float().clone().requires_grad_()
        optimizer = torch.optim.Adam([learned], lr=self.learning_rate * (1 - place / 100))
        losses: list[float] = []
        with torch.no_grad():
            conditional = network.predict(latents, timestep, states)
        for _ in range(self.iterations):
            unconditional = network.predict(latents, timestep, learned)
            loss = F.mse_loss(network.step(guided(unconditional, conditional, scale), timestep, latents), goal)
            losses.append(float(loss.detach()))
            if losses[-1] < enough or not torch.isfinite(loss):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return learned.detach(), losses

    @classmethod
    def published(cls, **settings: Any) -> NullText:
        """As Dynamic Prompt Learning runs it: 51 updates at every step."""
        return cls(**{"variant": "reference", "iterations": 51, **settings})
