"""Layout guidance: each object's share of attention inside its boxes (Chen et al., arXiv 2304.03373)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, Owners, on_device
from attncontrol.losses.base import Context, Evaluation, Refinement, option
from attncontrol.losses.layout_method import LayoutMethod
from attncontrol.losses.registry import register


def layout_guidance_terms(maps: Tensor, masks: Tensor) -> Tensor:
    """Squared share of attention outside an object's region, for one layer.

    See docs/methods/layout_guidance.md, section 1.

    Args:
        maps: Head maps of tokens, probabilities [tokens, heads, pixels].
        masks: The union of the regions of every token's object, bool [tokens, pixels].

    Returns:
        The mean over heads, in 0..1: [tokens]. A token without any attention counts as wholly outside, with gradient
        0.
    """
    total = maps.sum(-1)
    inside = (maps * masks[:, None]).sum(-1) / torch.where(total == 0, 1, total)
    return ((1 - inside) ** 2).mean(-1)


@register(
    "layout-guidance",
    summary="Draws each object into its boxes: the share of its attention outside them is pressed down, head by head.",
    paper="Chen et al., WACV 2024, arXiv 2304.03373",
)
@dataclass(frozen=True, kw_only=True)
class LayoutGuidance(LayoutMethod):
    """Layout guidance, backward (Chen et al., WACV 2024, arXiv 2304.03373).

    Uses the cross-attention of the middle block and of the up blocks' maps of `resolution`, by default those of
    Stable Diffusion's first up block with cross-attention (16x16 at 512 px); for Stable Diffusion XL those of the down
    blocks instead, unless `layers` says otherwise. Moves several times in each step of its
    window until the loss meets `threshold`. The published step of 30 sigma^2 for latents that carry their noise level
    is 30 sigma^2 / (1 + sigma^2) in the scale of the model's input: 29.9 to 29.1 over its ten steps, here constant.

    The default variant repairs the published code in these points: a threshold once met does not end all later
    guidance, every step tests it anew and does not move where it is met already; words are found by their tokens,
    not by counting words; box edges go to the nearest cell instead of being cut off, and a box smaller than a cell
    gets one. In both, a token without attention no longer divides by zero.
    """

    stop: float = option(0.2, "guide up to this fraction of sampling")
    step_size: float = option(30.0, "length of a step down the gradient with respect to the latents")
    threshold: float = option(0.2, "move no further in a step once the loss, in 0..1, is at most this", at_least=0)
    max_refinement_steps: int = option(5, "most moves in one sampling step", at_least=0, at_most=100)

    def select_layers(self, layers: Sequence[Layer]) -> list[Layer]:
        """Cross-attention of the middle block and of the up blocks at one size; of the down ones if up is left out.

        Of a transformer all of its allowed layers.
        """
        layers = [layer for layer in self.allowed_layers(layers) if layer.is_cross]
        mid = [layer for layer in layers if layer.place == "mid"]
        up = [layer for layer in layers if layer.place == "up"]
        sides = up or [layer for layer in layers if layer.place != "mid"]
        if mid and not sides:
            return mid
        size = self.map_size(sides)
        return mid + [layer for layer in sides if layer.size == size]

    def evaluate(self, maps: AttentionMaps, contexts: Sequence[Context]) -> Evaluation:
        """The mean loss of the layers, in 0..1, of an image's objects and of an object's tokens."""
        placed = [(image, *pair) for image, now in enumerate(contexts) for pair in self.placed(now)]
        positions = [(image, number, i) for number, (image, e, _) in enumerate(placed) for i in e.token_indices]
        objects = Owners(tuple(image for image, *_ in placed), len(contexts))
        tokens = Owners(tuple(number for _, number, _ in positions), len(placed))
        losses = []
        for layer in maps.cross():
            own = layer.of_tokens([(image, position) for image, _, position in positions])
            masks = self.unions([regions for *_, regions in placed], layer.layer.size).flatten(1)
            terms = layout_guidance_terms(own, on_device(masks[list(tokens.images)], own.device))
            losses.append(objects.mean(tokens.mean(terms)))
        return Evaluation(sum(losses[1:], losses[0]) / len(losses))

    def focus(self, context: Context) -> list[list[int]]:
        """Every entity's token positions, modifiers first."""
        return [list(entity.token_indices) for entity in context.prompt.entities if entity.noun.token_indices]

    def plain_step_size(self, context: Context) -> float:
        """0: all moves belong to `refine`."""
        return 0.0

    def refine(self, context: Context) -> Refinement:
        """Move while the loss is above the threshold (docs/methods/layout_guidance.md, section 2).

        Published code tests the loss after a move, and starts a step with the last loss of the step before.
        """
        if not self.guides(context):
            return
        loss = None if self.variant == "default" else context.last_loss
        for _ in range(self.max_refinement_steps):
            if self.variant == "default":
                loss = (yield 0.0).loss
            if loss is not None and loss <= self.threshold:
                return
            loss = (yield self.base_step).loss
