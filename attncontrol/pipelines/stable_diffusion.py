"""Stable Diffusion 1.x and 2.x with attention control."""

from diffusers import StableDiffusionPipeline

from attncontrol.pipelines.base import AttentionControlPipeline


class StableDiffusionAttentionControlPipeline(AttentionControlPipeline, StableDiffusionPipeline):
    """`StableDiffusionPipeline` whose call takes `control`, `subjects`, `layout`."""

    stock_name = "StableDiffusionPipeline"
