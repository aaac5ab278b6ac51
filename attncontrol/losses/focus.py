"""FOCUS: the tokens of a subject gather in one place, different subjects keep apart (arXiv 2510.02315)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, index_tensor
from attncontrol.losses.base import Context, Evaluation, option
from attncontrol.losses.common import SmoothedMaps
from attncontrol.losses.conform import nt_xent_loss
from attncontrol.losses.registry import register
from attncontrol.losses.words import distributions

EPSILON = 1e-10  # inside logarithms
TEMPERATURE = 0.07  # of the contrastive criterion
OFFSET = 0.001  # keeps the published step finite at pure noise
Maps = Sequence[Tensor]  # one tensor [tokens, height, width] a subject


def divergence(p: Tensor) -> Tensor:
    """Jensen-Shannon divergence of several distributions [distributions, pixels] over log their number: 0..1.

    0 where they are the same, 1 where no two of them overlap. A constant 0 for a single one.
    """
    if len(p) < 2:
        return p.new_zeros(())
    return (entropy(p.mean(0)) - entropy(p).mean()) / math.log(len(p))


def entropy(p: Tensor) -> Tensor:
    """-sum p log p over the last axis."""
    return -(p * (p + EPSILON).log()).sum(-1)


def sharpened(maps: Tensor) -> Tensor:
    """Maps [maps, height, width] cubed, as distributions over pixels [maps, pixels]."""
    p = distributions(maps.movedim(0, -1)) * maps[0].numel()  # around 1: a cube of small numbers would be lost
    total = (p**3).sum(1, keepdim=True)
    return p**3 / torch.where(total == 0, 1, total)


def focus_loss(subjects: Maps) -> Tensor:
    """Half the mean divergence inside subjects of several tokens plus half of 1 - that between the subjects: 0..1."""
    inside = [divergence(sharpened(maps)) for maps in subjects if len(maps) > 1]
    loss = torch.stack(inside).mean() if inside else subjects[0].new_zeros(())
    if len(subjects) > 1:
        loss = loss + 1 - divergence(sharpened(means(subjects)))
    return loss / 2


def attend_and_excite_loss(subjects: Maps) -> Tensor:
    """1 - the smallest maximum of a subject's map, of each pixel's share among all subjects' tokens: 0..1."""
    joined = torch.cat(list(subjects))
    total = joined.sum(0)
    shares = joined / torch.where(total == 0, 1, total)
    return (1 - means(shares.split([len(maps) for maps in subjects])).flatten(1).amax(1).amin()).relu()


def divide_and_bind_loss(subjects: Maps) -> Tensor:
    """Minus the smallest total variation of a subject's map of mean 1; 0 or less."""
    maps = means(subjects)
    level = maps.mean((1, 2), keepdim=True)
    maps = maps / torch.where(level == 0, 1, level)
    variation = [maps.diff(dim=axis).abs().flatten(1).mean(1) for axis in (1, 2)]
    return -(variation[0] + variation[1]).amin()


def conform_loss(subjects: Maps, previous: Tensor | None = None) -> Tensor:
    """NT-Xent over all tokens, with the previous step's maps [tokens, height, width] as further samples."""
    rows = torch.cat(list(subjects)).flatten(1)
    labels = torch.arange(len(subjects)).repeat_interleave(torch.tensor([len(maps) for maps in subjects]))
    if previous is not None:
        rows, labels = torch.cat([rows, previous.flatten(1)]), labels.repeat(2)
    return nt_xent_loss(rows, labels, TEMPERATURE)


def means(subjects: Maps) -> Tensor:
    """The mean map of every subject: [subjects, height, width]."""
    return torch.stack([maps.mean(0) for maps in subjects])


CRITERIA: dict[str, Callable[..., Tensor]] = {
    "focus": focus_loss,
    "attend-and-excite": attend_and_excite_loss,
    "divide-and-bind": divide_and_bind_loss,
    "conform": conform_loss,
}


@register(
    "focus",
    summary="Gathers the tokens of a subject in one place and keeps subjects apart; made for flow matching.",
    paper="Bill, Simsar, Hofmann, arXiv 2510.02315",
)
@dataclass(frozen=True, kw_only=True)
class Focus(SmoothedMaps):
    """FOCUS (Bill, Simsar, Hofmann, arXiv 2510.02315), with the other criteria of its published code.

    The reference variant is the published code for Stable Diffusion 3.5 and FLUX.1: all joint layers, one move in
    every step, which the scheduler makes after the model has seen latents that are not moved; `step_size` is its
    lambda. It goes down the loss on both models, where the published code climbs it on FLUX.1. The default variant
    moves before the model's call as all methods do, works on any model, and takes the model's default layers.
    """

    stop: float = option(1.0, "guide up to this fraction of sampling")
    step_size: float = option(1.0, "length of a step down the gradient with respect to the latents")
    relative_step: float | None = option(
        0.01,
        "length of a step as a fraction of the latents' norm, in place of step_size and of the published schedule",
        at_least=0,
        at_most=100,
    )
    reference_padding = None
    sigma: float = option(math.sqrt(0.5), "width of the smoothing kernel", at_least=0.01, at_most=100)
    criterion: Literal["focus", "attend-and-excite", "divide-and-bind", "conform"] = option(
        "focus", "what is descended: FOCUS's loss, or those that its published code compares it with"
    )

    def evaluate(self, maps: AttentionMaps, context: Context) -> Evaluation:
        """The criterion over all subjects; a constant 0 without any."""
        attention = maps.mean_cross(self.map_size([m.layer for m in maps.layers]))
        groups = self.focus(context)
        if not groups:
            return Evaluation(attention.new_zeros(()))
        tokens = attention[..., index_tensor([i for group in groups for i in group], attention.device)]
        prepared = self.smoothed(tokens.movedim(-1, 0))
        subjects = prepared.split([len(group) for group in groups])
        if self.criterion != "conform":
            return Evaluation(CRITERIA[self.criterion](subjects))
        return Evaluation(conform_loss(subjects, context.carry), carry=prepared.detach())

    def __post_init__(self) -> None:
        """As of every method; the reference variant has no relative step."""
        super().__post_init__()
        if self.variant == "reference":
            object.__setattr__(self, "relative_step", None)

    @property
    def moves_after(self) -> bool:
        """In the reference variant."""
        return self.variant == "reference"

    def allowed_layers(self, layers: Sequence[Layer]) -> list[Layer]:
        """Those that the setting `layers` names; else the model's default ones, in the reference variant all joint."""
        if self.variant == "reference" and self.layers is None:
            return [layer for layer in layers if layer.place == "joint"] or super().allowed_layers(layers)
        return super().allowed_layers(layers)

    def focus(self, context: Context) -> list[list[int]]:
        """The tokens of every entity, modifiers first, of all text encoders together."""
        groups = (list(dict.fromkeys(entity.token_indices)) for entity in context.prompt.entities)
        return [group for group in groups if group]

    def plain_step_size(self, context: Context) -> float:
        """The step inside the window, 0 outside or without subjects; in the reference variant the published schedule.

        There lambda s (1 - tau) |next - now| of the noise level now = 1 - tau and that of the next step, with
        s = 2 (1 - tau + 0.001) / (tau + 0.001): what a velocity that is moved by lambda s (1 - tau) does to latents.
        """
        if not self.focus(context):
            return 0.0
        if not self.moves_after or context.noise is None:
            return super().plain_step_size(context)
        now, following = context.noise
        strength = 2 * (now + OFFSET) / (1 - now + OFFSET)
        return self.step_size * strength * now * abs(following - now)
