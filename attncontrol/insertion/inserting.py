"""The loop of Add-it: source and target are denoised together, and the target is drawn back to its source."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer, Size
from attncontrol.insertion.extended_attention import ExtendedAttention
from attncontrol.insertion.flow import Flow, Text
from attncontrol.insertion.flow_inversion import invert_flow
from attncontrol.insertion.masks import blended, smoothed, subject_mask
from attncontrol.insertion.settings import FIRST_GAMMA, AddIt
from attncontrol.insertion.weight import find_weight

RECORDED = 3  # steps whose attention makes a mask, the blending one the last

Segment = Callable[[Tensor, Tensor, Tensor], Tensor]  # clean latents, attention and mask to a better mask


@dataclass(frozen=True)
class Scene:
    """What is inserted into: the texts of source and target with their guidance scales, and the size in tokens.

    `map_layers` are the layers whose maps of the subject say where it is.
    """

    texts: tuple[Text, Text]
    guidance: tuple[float, float]
    size: Size
    layers: Sequence[Layer]
    map_layers: Sequence[Layer]


@dataclass
class Inserted:
    """Latents [1, tokens, channels] of source and target; the last blend's mask [height, width], if there was one."""

    source: Tensor
    target: Tensor
    gamma: float
    mask: Tensor | None = None


class Inserter:
    """Draws, inverts and inserts for one scene.

    Args:
        flow: The transformer.
        attention: Of its layers; installed by the caller.
        settings: Of the run.
        scene: What is inserted into.
        segment: Improves masks; None leaves them as attention says.
        advance: Called with the latents after every step.
    """

    def __init__(
        self,
        flow: Flow,
        attention: ExtendedAttention,
        settings: AddIt,
        scene: Scene,
        segment: Segment | None,
        advance: Callable[[Tensor, str], None],
    ) -> None:
        self.flow, self.attention, self.settings, self.scene = flow, attention, settings, scene
        self.segment, self.advance = segment, advance
        self.plan = settings.plan(flow.steps)
        self.is_reference = settings.variant == "reference"

    # the source

    def draw(self, noise: Tensor) -> list[Tensor]:
        """The latents before every step of drawing the source prompt, and the image's: steps + 1 of [1, ...]."""
        return self._draw(noise, 0)

    def settle(self, latents: Tensor, noise: Tensor) -> Tensor:
        """A picture's latents after its last steps are drawn again, so that the model knows them as its own."""
        start = self.plan.settle
        return latents if start == self.flow.steps else self._draw(self.flow.noised(latents, noise, start), start)[-1]

    def _draw(self, latents: Tensor, start: int) -> list[Tensor]:
        path, text, scale = [latents], self.scene.texts[:1], self.scene.guidance[1:]
        for index in range(start, self.flow.steps):
            velocity = self.flow.velocity(path[-1], self.flow.sigmas[index], text, scale)
            path.append(self.flow.step(path[-1], velocity, index))
            self.advance(path[-1], "drawing")
        return path

    def invert(self, latents: Tensor, noise: Tensor) -> list[Tensor]:
        """The path of a picture's latents from noise: steps + 1 of [1, ...]."""
        if self.settings.inversion == "noise":
            levels = range(self.flow.steps)
            return [*(self.flow.noised(latents, noise, index) for index in levels), latents]

        def velocity(at: Tensor, sigma: Tensor) -> Tensor:
            self.advance(at, "inversion")
            return self.flow.velocity(at, sigma, self.scene.texts[:1], self.scene.guidance[:1])

        return invert_flow(latents, self.flow.sigmas, velocity)

    # the target

    def insert(self, clean: Tensor, noise: Tensor, path: Sequence[Tensor] | None) -> Inserted:
        """The target image.

        Args:
            clean: The source's latents [1, tokens, channels].
            noise: Of source and target, [2, tokens, channels].
            path: The source's latents before every step, which it is held to; None lets it go its own way.
        """
        run = Inserted(clean, noise[1:], FIRST_GAMMA if self.settings.gamma == "auto" else self.settings.gamma)
        latents, velocity = noise, noise
        for index in range(self.plan.first, self.flow.steps):
            if path is not None:
                latents = torch.cat([path[index], latents[-1:]])
            if index == self.plan.transfer and index > 0:
                latents = torch.cat([latents[:1], self.flow.noised(clean, noise[1:], index)])
            velocity = self._velocity(run, latents, velocity, index)
            moved = self.flow.step(latents[-len(velocity) :], velocity, index)
            if self.settings.offset and path is not None:
                moved = torch.cat([moved[:1], moved[1:] + path[index + 1] - moved[:1]])
            if index in self.plan.blend:
                moved = self._blend(run, latents, velocity, moved, index)
            latents = moved
            self.advance(latents[-1:], "insertion")
        run.source, run.target = latents[:1] if self.is_reference else clean, latents[-1:]
        return run

    def _velocity(self, run: Inserted, latents: Tensor, last: Tensor, index: int) -> Tensor:
        """That of the rows this step needs: the target's alone once the source's is of no use any more."""
        attention, scene = self.attention, self.scene
        attention.layers = self._extended(index)
        attention.recorded = self._recorded(index)
        alone = not attention.layers and not self._needs_source(index) and not self.is_reference
        first = 1 if alone else 0
        texts, guidance = scene.texts[first:], scene.guidance[first:]

        def call(gamma: float) -> Tensor:
            attention.gamma = gamma
            return self.flow.velocity(latents[-len(texts) :], self.flow.sigmas[index], texts, guidance)

        if index != self.plan.weigh:
            return call(run.gamma)
        run.gamma = self._weigh(call)
        return last if self.is_reference else call(run.gamma)

    def _weigh(self, call: Callable[[float], Tensor]) -> float:
        """The automatic gamma of the present step."""
        attention = self.attention
        recorded, attention.recorded = attention.recorded, frozenset()
        attention.measured = frozenset(layer.name for layer in self.scene.layers if layer.place == "joint")

        def ratio(gamma: float) -> float:
            attention.masses = []
            call(gamma)
            source, target = torch.tensor(attention.masses).mean(0).tolist()
            return target / source

        try:
            return find_weight(ratio, strict=self.is_reference)
        finally:
            attention.measured, attention.recorded = frozenset(), recorded

    def _extended(self, index: int) -> frozenset[str]:
        stops = {"joint": self.plan.joint, "single": self.plan.single}
        return frozenset(layer.name for layer in self.scene.layers if index < stops[layer.place])

    def _recorded(self, index: int) -> frozenset[str]:
        blends = self.plan.blend[:1] if self.is_reference else self.plan.blend
        wanted = any(blend - RECORDED < index <= blend for blend in blends)
        return frozenset(layer.name for layer in self.scene.map_layers) if wanted else frozenset()

    def _needs_source(self, index: int) -> bool:
        return self.settings.offset or any(index <= blend for blend in self.plan.blend)

    def _blend(self, run: Inserted, latents: Tensor, velocity: Tensor, moved: Tensor, index: int) -> Tensor:
        """The latents after a step with the source's around the new thing."""
        attention = smoothed(subject_attention(self.attention.seen, self.is_reference).unflatten(0, self.scene.size))
        if not self.is_reference or index == self.plan.blend[-1]:
            self.attention.seen = {}
        mask = subject_mask(attention)
        if not mask.any():
            warnings.warn("the new thing looks nowhere in particular, so its surroundings are not kept", stacklevel=2)
            return moved
        share = mask.float()
        if self.segment is not None:
            clean = latents[1:].float() - self.flow.sigmas[index] * velocity[1:]
            share = self.segment(clean.to(latents.dtype), attention, mask)
        run.mask = share
        return torch.stack([moved[0], blended(moved[0], moved[1], share)])


def subject_attention(seen: dict[str, list[tuple[Tensor, Tensor]]], published: bool) -> Tensor:
    """The subject's map [image] of recorded steps: the mean over layers.

    Args:
        seen: By layer, of every step, attention from the tokens to the image and from the image to the tokens, both
            [tokens, image].
        published: Whether the published code's slip is kept, by which the sum of all steps but the last is that of
            the other direction, and only the last token counts. Otherwise it is the sum of attention from the image,
            averaged over the tokens.
    """
    if published:
        return torch.stack([accumulated(steps)[-1] for steps in seen.values()]).mean(0)
    summed = [torch.stack([from_image for _, from_image in steps]).sum(0) for steps in seen.values()]
    return torch.stack(summed).mean((0, 1))


def accumulated(steps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """What the published code keeps of attention from the image, [tokens, image]: after one step that step's."""
    to_image, from_image = zip(*steps, strict=True)
    total: Any = from_image[-1]
    return total + sum(to_image) if len(steps) > 1 else total
