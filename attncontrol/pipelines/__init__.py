"""Controlled forms of diffusers pipelines."""

from attncontrol.pipelines.base import AttentionControlOutput, AttentionControlPipeline
from attncontrol.pipelines.stable_diffusion import StableDiffusionAttentionControlPipeline

__all__ = ["AttentionControlOutput", "AttentionControlPipeline", "StableDiffusionAttentionControlPipeline"]
