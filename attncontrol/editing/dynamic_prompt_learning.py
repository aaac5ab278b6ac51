"""Dynamic Prompt Learning: the nouns of a caption are learned anew at every step, so that each looks at its own thing.

Wang et al., "Dynamic Prompt Learning: Addressing Cross-Attention Leakage for Text-Based Image Editing", NeurIPS 2023,
arXiv 2309.15664.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attncontrol.attention.maps import smooth
from attncontrol.editing.network import Network
from attncontrol.editing.settings import PUBLISHED_STEPS, Settings
from attncontrol.losses.base import option

SOFTMAX_SCALE = 100.0


def noun_maps(attention: Tensor, nouns: Sequence[Sequence[int]]) -> Tensor:
    """The mean map of every noun's positions: [height, width, positions] -> [nouns, height, width]."""
    return torch.stack([attention[..., list(positions)].mean(-1) for positions in nouns])


def balancing(attention: Tensor, nouns: Sequence[Sequence[int]], worst: bool = True, smoothing: bool = True) -> Tensor:
    """How far the peaks of the nouns' maps are below 1, after a softmax over all words: the worst noun or the mean.

    attention: [height, width, positions], probabilities; nouns: the positions of each.
    """
    words = torch.softmax(SOFTMAX_SCALE * attention[..., 1:-1], dim=-1)
    maps = noun_maps(F.pad(words, (1, 1)), nouns)
    peaks = (smooth(maps) if smoothing else maps).flatten(1).amax(1)
    missing = (1 - peaks).clamp(min=0)
    return missing.max() if worst else missing.mean()


def disjoint(attention: Tensor, nouns: Sequence[Sequence[int]]) -> Tensor:
    """Mean cosine similarity of the maps of every two nouns; 0 for a single one."""
    maps = noun_maps(attention, nouns).flatten(1)
    pairs = [(n, k) for n in range(len(maps)) for k in range(n)]
    if not pairs:
        return maps.sum() * 0
    return torch.stack([F.cosine_similarity(maps[n], maps[k], dim=0) for n, k in pairs]).mean()


def background(attention: Tensor, nouns: Sequence[Sequence[int]], mask: Tensor) -> Tensor:
    """Mean cosine similarity of the nouns' maps and the background, 1 there and else 0: [height, width]."""
    maps = noun_maps(attention, nouns).flatten(1)
    return F.cosine_similarity(maps, mask.to(maps).flatten()[None], dim=1).mean()


@dataclass(frozen=True)
class Losses:
    """The three terms of one look, `total` their weighted sum; a term of weight 0 is not computed and counts as 0."""

    total: Tensor
    balancing: Tensor
    disjoint: Tensor
    background: Tensor

    def numbers(self) -> list[float]:
        """Total, balancing, disjoint, background."""
        return torch.stack([self.total, self.balancing, self.disjoint, self.background]).detach().tolist()


@dataclass(frozen=True, kw_only=True)
class DynamicPromptLearning(Settings):
    """Settings of Dynamic Prompt Learning.

    The reference variant is the published code: weight decay shrinks the learned nouns, and the targets go by the
    step's number whatever the number of steps.
    """

    variant: Literal["default", "reference"] = option(
        "default", "'reference' is the published code with its quirks, 'default' has its defects repaired"
    )
    looks: int = option(21, "most looks at the maps in one step, each followed by an update", at_least=0, at_most=1000)
    learning_rate: float = option(1e-3, "of AdamW", at_least=0, at_most=10)
    balancing_weight: float = option(1.0, "of the balancing loss", at_least=0, at_most=1e6)
    disjoint_weight: float = option(0.05, "of the disjoint-object loss", at_least=0, at_most=1e6)
    background_weight: float = option(0.05, "of the background loss", at_least=0, at_most=1e6)
    balancing_over: Literal["max", "mean"] = option("max", "balance the worst noun, or the mean of all")
    smoothing: bool = option(True, "smooth the maps of the balancing loss")
    balancing_target: tuple[float, float] = option(
        (0.3, 25.0), "loss at the first of 50 steps that is good enough, and its decay in steps", 1e-9, 1e9
    )
    disjoint_target: tuple[float, float] = option((0.9, 25.0), "the same of the disjoint-object loss", 1e-9, 1e9)
    background_target: tuple[float, float] = option((0.7, 50.0), "the same of the background loss", 1e-9, 1e9)

    def losses(self, attention: Tensor, nouns: Sequence[Sequence[int]], mask: Tensor | None) -> Losses:
        """The three losses; attention [height, width, positions], mask [height, width] or None without background."""
        zero = attention.sum() * 0
        use = self.balancing_weight > 0, self.disjoint_weight > 0, self.background_weight > 0 and mask is not None
        terms = (
            balancing(attention, nouns, self.balancing_over == "max", self.smoothing) if use[0] else zero,
            disjoint(attention, nouns) if use[1] else zero,
            background(attention, nouns, mask) if use[2] and mask is not None else zero,
        )
        weights = self.balancing_weight, self.disjoint_weight, self.background_weight
        total = sum((weight * term for weight, term in zip(weights, terms, strict=True)), zero)
        return Losses(total, *terms)

    def targets(self, index: int, steps: int = PUBLISHED_STEPS) -> tuple[float, float, float]:
        """What balancing, disjoint-object and background loss must fall below at a step (from 0) to stop early."""
        place = index if self.variant == "reference" else index * PUBLISHED_STEPS / steps
        pairs = self.balancing_target, self.disjoint_target, self.background_target
        first, second, third = (start * math.exp(-place / decay) for start, decay in pairs)
        return first, second, third

    def learn(
        self,
        network: Network,
        latents: Tensor,
        index: int,
        encode: Callable[[Tensor], Tensor],
        start: Tensor,
        nouns: Sequence[Sequence[int]],
        mask: Tensor | None,
    ) -> tuple[Tensor, list[list[float]]]:
        """The input embeddings of the nouns at one step.

        Args:
            network: What samples.
            latents: [1, channels, height, width] before the step.
            index: The step, from 0.
            encode: Text states [1, positions, width] from the embeddings, differentiable.
            start: The embeddings of all pieces of all nouns to begin with, [pieces, width].
            nouns: Token positions of each noun.
            mask: The background, [height, width] of the maps, or None.

        Returns:
            The embeddings, and of every look its losses as `Losses.numbers`.
        """
        timesteps = network.sampler.timesteps
        learned = start.detach().float().clone().requires_grad_()
        decay = 0.01 if self.variant == "reference" else 0.0
        optimizer = torch.optim.AdamW([learned], lr=self.learning_rate, weight_decay=decay)
        targets = self.targets(index, len(timesteps))
        seen: list[list[float]] = []
        for _ in range(self.looks if self.looks > 1 else 0):
            with network.maps(latents, timesteps[index], encode(learned)) as attention:
                losses = self.losses(attention, nouns, mask)
                seen.append(losses.numbers())
                reached = all(value < target for value, target in zip(seen[-1][1:], targets, strict=True))
                if reached or not math.isfinite(seen[-1][0]):
                    break
                optimizer.zero_grad()
                losses.total.backward()
            optimizer.step()
        return learned.detach(), seen

    @classmethod
    def published(cls, **settings: Any) -> DynamicPromptLearning:
        """The published code."""
        return cls(**{"variant": "reference", **settings})
