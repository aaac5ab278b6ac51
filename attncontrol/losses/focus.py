"""FOCUS: the tokens of a subject gather in one place, different subjects keep apart (arXiv 2510.02315)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, Owners, index_tensor, on_device
from attncontrol.losses.base import Context, Evaluation, Method, option
from attncontrol.losses.common import SmoothedMaps
from attncontrol.losses.conform import nt_xent_loss
from attncontrol.losses.registry import create_method, register
from attncontrol.losses.words import distributions

EPSILON = 1e-10  # inside logarithms
TEMPERATURE = 0.07  # of the contrastive criterion
OFFSET = 0.001  # keeps the published step finite at pure noise


@dataclass(frozen=True)
class Subjects:
    """The maps of all subjects of a batch, token by token.

    Args:
        maps: Prepared maps [tokens, height, width].
        tokens: The subject of every token.
        images: The image of every subject.
    """

    maps: Tensor
    tokens: Owners
    images: Owners

    @property
    def means(self) -> Tensor:
        """The mean map of every subject: [subjects, height, width]."""
        return self.tokens.mean(self.maps)

    @property
    def token_images(self) -> Owners:
        """The image of every token."""
        return Owners(tuple(self.images.images[subject] for subject in self.tokens.images), self.images.count)


def divergence(p: Tensor, owners: Owners) -> Tensor:
    """Jensen-Shannon divergence of each owner's distributions over the log of their number: [owners] in 0..1.

    0 where they are the same, 1 where no two of them overlap; 0 for an owner of one or none.

    Args:
        p: [distributions, pixels].
        owners: Whose each is.
    """
    counts = torch.tensor([owners.images.count(owner) for owner in range(owners.count)], dtype=p.dtype)
    scale = on_device((counts > 1) / counts.clamp(min=2).log(), p.device)
    return (entropy(owners.mean(p)) - owners.mean(entropy(p))) * scale


def entropy(p: Tensor) -> Tensor:
    """-sum p log p over the last axis."""
    return -(p * (p + EPSILON).log()).sum(-1)


def sharpened(maps: Tensor) -> Tensor:
    """Maps [maps, height, width] cubed, as distributions over pixels [maps, pixels]."""
    # around 1: a cube of small numbers would be lost
    p = distributions(maps.movedim(0, -1)[None])[0] * maps.shape[1] * maps.shape[2]
    total = (p**3).sum(1, keepdim=True)
    return p**3 / torch.where(total == 0, 1, total)


def focus_loss(subjects: Subjects) -> Tensor:
    """Half the mean divergence inside subjects of several tokens plus half of 1 - that between them: [images]."""
    several = [s for s in range(subjects.tokens.count) if subjects.tokens.images.count(s) > 1]
    inside = divergence(sharpened(subjects.maps), subjects.tokens)[index_tensor(several, subjects.maps.device)]
    images = Owners(tuple(subjects.images.images[s] for s in several), subjects.images.count)
    apart = torch.tensor([float(subjects.images.images.count(image) > 1) for image in range(images.count)])
    between = divergence(sharpened(subjects.means), subjects.images)
    return (images.mean(inside) + on_device(apart.to(between.dtype), between.device) - between) / 2


def attend_and_excite_loss(subjects: Subjects) -> Tensor:
    """1 - the smallest maximum of a subject's map, of each pixel's share among all subjects' tokens: [images]."""
    images = subjects.token_images
    total = images.sum(subjects.maps)[index_tensor(images.images, subjects.maps.device)]
    shares = subjects.maps / torch.where(total == 0, 1, total)
    maxima = subjects.tokens.mean(shares).flatten(1).amax(1)
    return (1 + subjects.images.largest(-maxima, none=-1.0)).relu()


def divide_and_bind_loss(subjects: Subjects) -> Tensor:
    """Minus the smallest total variation of a subject's map of mean 1: [images], 0 or less."""
    maps = subjects.means
    level = maps.mean((1, 2), keepdim=True)
    maps = maps / torch.where(level == 0, 1, level)
    variation = [maps.diff(dim=axis).abs().flatten(1).mean(1) for axis in (1, 2)]
    return subjects.images.largest(-(variation[0] + variation[1]))


def conform_loss(subjects: Subjects, previous: Sequence[Tensor | None]) -> Tensor:
    """NT-Xent over all tokens, an image's previous maps [tokens, height, width] being further samples: [images]."""
    images = subjects.token_images
    known = [(image, maps) for image, maps in enumerate(previous) if maps is not None]
    rows = torch.cat([subjects.maps, *(maps for _, maps in known)]).flatten(1)
    own = list(zip(images.images, subjects.tokens.images, strict=True))
    labels = own + [pair for image, _ in known for pair in own if pair[0] == image]
    owners = Owners(tuple(image for image, _ in labels), images.count)
    numbers = owners.padded(torch.tensor([label for _, label in labels]), -1)[:, : images.count].T
    embeddings = owners.padded(rows)[:, : images.count].transpose(0, 1)
    return nt_xent_loss(embeddings, on_device(numbers, rows.device), TEMPERATURE)


CRITERIA: dict[str, Callable[[Subjects], Tensor]] = {
    "focus": focus_loss,
    "attend-and-excite": attend_and_excite_loss,
    "divide-and-bind": divide_and_bind_loss,
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

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The criterion over all subjects; 0 for an image without any."""
        subjects = self.subjects(self.attention(maps), contexts)
        if self.criterion != "conform":
            return Evaluation(CRITERIA[self.criterion](subjects))
        images = subjects.token_images.images
        carries = subjects.maps.detach().split([images.count(image) for image in range(len(contexts))])
        return Evaluation(conform_loss(subjects, [now.carry for now in contexts]), carries=carries)

    def subjects(self, attention: Tensor, contexts: Sequence[Context]) -> Subjects:
        """The smoothed maps of all subjects, from mean attention [images, height, width, positions]."""
        groups = [(image, group) for image, now in enumerate(contexts) for group in self.focus(now)]
        tokens = [(image, number, i) for number, (image, group) in enumerate(groups) for i in group]
        images, _, positions = index_tensor(tokens, attention.device).reshape(-1, 3).T
        return Subjects(
            self.smoothed(attention[images, :, :, positions]),
            Owners(tuple(number for _, number, _ in tokens), len(groups)),
            Owners(tuple(image for image, _ in groups), len(contexts)),
        )

    def __post_init__(self) -> None:
        """As of every method; the reference variant has no relative step."""
        super().__post_init__()
        if self.variant == "reference":
            object.__setattr__(self, "relative_step", None)

    @property
    def moves_after(self) -> bool:
        """In the reference variant, and with `shared_pass`."""
        return self.variant == "reference" or self.shared_pass

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
        """The step inside the window, 0 outside; in the reference variant the published schedule.

        There lambda s (1 - tau) |next - now| of the noise level now = 1 - tau and that of the next step, with
        s = 2 (1 - tau + 0.001) / (tau + 0.001): what a velocity that is moved by lambda s (1 - tau) does to latents.
        """
        if self.variant != "reference" or context.noise is None:
            return super().plain_step_size(context)
        now, following = context.noise
        strength = 2 * (now + OFFSET) / (1 - now + OFFSET)
        return self.step_size * strength * now * abs(following - now)


class PublishedAttendAndExcite(Focus):
    """Attend-and-Excite as FOCUS's published code has it for Stable Diffusion 3.5 and FLUX.1."""

    name = "attend-and-excite"


class PublishedConform(Focus):
    """CONFORM, likewise."""

    name = "conform"


PUBLISHED = {
    "attend-and-excite": PublishedAttendAndExcite(variant="reference", criterion="attend-and-excite"),
    "conform": PublishedConform(variant="reference", criterion="conform"),
}


def as_published(method: Method, own: Mapping[str, Any]) -> Method:
    """The reference variant of a method on a model that FOCUS's published code controls (docs/methods/focus.md).

    Args:
        method: FOCUS, which stays as it is, or a method that its code has as a criterion.
        own: The model's settings of the method, which say nothing here.

    Raises:
        ValueError: If other settings were chosen: all numbers are FOCUS's.
    """
    if isinstance(method, Focus):
        return method
    unchosen = [create_method(method.name, **settings).settings() for settings in ({}, own)]
    chosen = [name for name, value in method.settings().items() if value not in [known[name] for known in unchosen]]
    if wrong := [name for name in chosen if name != "variant"]:
        raise ValueError(
            f"{method.name}: variant='reference' has FOCUS's published numbers on this model, so leave out "
            f"{', '.join(wrong)}; to change them use focus with variant='reference' and criterion={method.name!r}"
        )
    return PUBLISHED[method.name]
