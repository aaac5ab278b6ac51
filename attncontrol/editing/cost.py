"""What an inversion costs at most, counted before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from attncontrol.attention.layers import Size
from attncontrol.editing.dynamic_prompt_learning import DynamicPromptLearning
from attncontrol.editing.null_text import NullText
from attncontrol.editing.published import last_layer
from attncontrol.families.unet import UNetFamily
from attncontrol.guidance.cost import guided_cost, plain_cost


@dataclass(frozen=True)
class InversionCost:
    """Passes of one picture through the UNet: `forwards` without and `learning` with a backward pass, at most.

    `operations` are floating-point ones of all of them, `peak_bytes` the most memory beside the model's weights.
    """

    forwards: int
    learning: int
    operations: int
    peak_bytes: int


def inversion_cost(
    family: UNetFamily,
    size: Size,
    method: str,
    steps: int,
    learning: DynamicPromptLearning | None = None,
    null_text: NullText | None = None,
    low_memory: bool = False,
) -> InversionCost:
    """The cost of inverting one picture if no step stops early.

    Args:
        family: Of the pipeline.
        size: (height, width) of the latents.
        method: "ddim", "null-text" or "dpl".
        steps: Of sampling.
        learning: Settings of "dpl".
        null_text: Settings of "null-text" and "dpl".
        low_memory: Whether activations are computed again in the backward pass instead of kept.

    Raises:
        ValueError: If the UNet takes other inputs than Stable Diffusion's.
    """
    forward = plain_cost(family, size, images=1)
    if method == "ddim":
        return InversionCost(steps, 0, steps * forward.operations, forward.peak_bytes)
    layers = family.layers(size)
    whole = guided_cost(family, size, [layer for layer in layers if layer.name == last_layer(layers)], low_memory)
    null = steps * (null_text or NullText()).iterations
    looks = steps * (learning or DynamicPromptLearning()).looks if method == "dpl" else 0
    forwards = 4 * steps  # inversion, the conditional prediction, and the two of the step itself
    operations = forwards * forward.operations + (null + looks) * whole.operations
    return InversionCost(forwards, null + looks, operations, max(whole.peak_bytes, forward.peak_bytes))
