"""Stable Diffusion XL with attention control."""

from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from attncontrol.pipelines.base import AttentionControlPipeline


class StableDiffusionXLAttentionControlPipeline(AttentionControlPipeline, StableDiffusionXLPipeline):
    """`StableDiffusionXLPipeline` whose call takes `control`, `subjects`, `layout`; turbo and lightning as well.

    Subjects are words of `prompt`. With a `prompt_2` of its own, the second text encoder has other text at their
    tokens, and their maps answer to both.
    """

    stock_name = "StableDiffusionXLPipeline"


class StableDiffusionXLRefinerAttentionControlPipeline(AttentionControlPipeline, StableDiffusionXLImg2ImgPipeline):
    """`StableDiffusionXLImg2ImgPipeline`, the class of XL refiner checkpoints, likewise."""

    stock_name = "StableDiffusionXLImg2ImgPipeline"
