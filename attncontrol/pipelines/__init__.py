"""Controlled forms of diffusers pipelines."""

from attncontrol.pipelines.base import AttentionControlOutput, AttentionControlPipeline
from attncontrol.pipelines.stable_diffusion import StableDiffusionAttentionControlPipeline
from attncontrol.pipelines.stable_diffusion_xl import (
    StableDiffusionXLAttentionControlPipeline,
    StableDiffusionXLRefinerAttentionControlPipeline,
)

__all__ = [
    "AttentionControlOutput",
    "AttentionControlPipeline",
    "StableDiffusionAttentionControlPipeline",
    "StableDiffusionXLAttentionControlPipeline",
    "StableDiffusionXLRefinerAttentionControlPipeline",
]
