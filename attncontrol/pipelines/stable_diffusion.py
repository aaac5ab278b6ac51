"""Stable Diffusion 1.x and 2.x with attention control, GLIGEN's checkpoints included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, StableDiffusionPipeline

from attncontrol.pipelines.base import AttentionControlPipeline


class StableDiffusionAttentionControlPipeline(AttentionControlPipeline, StableDiffusionPipeline):
    """`StableDiffusionPipeline` whose call takes `control`, `subjects`, `layout` and `grounding`.

    The UNet of a GLIGEN checkpoint has gates; without `grounding` they stay out of the way.
    """

    stock_name = "StableDiffusionPipeline"
    also_loads = ("StableDiffusionGLIGENPipeline",)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> StableDiffusionAttentionControlPipeline:
        """Loads a checkpoint. Raises ValueError also for GLIGEN's inpainting one, which needs a picture."""
        return _text_to_image(super().from_pretrained(pretrained_model_name_or_path, **kwargs))

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> StableDiffusionAttentionControlPipeline:
        """The controlled form of an existing pipeline. Raises ValueError as `from_pretrained`."""
        return _text_to_image(super().from_pipe(pipeline, **kwargs))


def _text_to_image(pipe: Any) -> Any:
    if pipe.unet.config.attention_type != "gated" or pipe.vae is None:
        return pipe
    channels, latents = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if channels != latents:
        raise ValueError(
            f"this GLIGEN checkpoint is one for inpainting: its UNet takes {channels} channels, {latents} of them "
            "latents, and so needs a picture. Use a text-box generation checkpoint, or attncontrol.attach with a "
            "StableDiffusionGLIGENPipeline called with gligen_inpaint_image"
        )
    return pipe
