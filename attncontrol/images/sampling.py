"""How an image is sampled, whatever controls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """What every program asks of the sampling of an image.

    Args:
        steps: Of the solver.
        guidance_scale: Of classifier-free guidance.
        negative_prompt: "" for none.
        width: In pixels; None for the model's own.
        height: Likewise.
    """

    steps: int
    guidance_scale: float
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments of a pipeline's call, all but the negative prompt, of which a batch has several."""
        sizes = {"width": self.width, "height": self.height}
        given = {side: size for side, size in sizes.items() if size is not None}
        return {"num_inference_steps": self.steps, "guidance_scale": self.guidance_scale, **given}
