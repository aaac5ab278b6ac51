"""Tiny random pipelines of the real diffusers classes, and a real CLIP tokenizer with a small vocabulary."""

from __future__ import annotations

import functools

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.prompt.clip import clip_tokenizer

WORDS = (
    "a an and with the of in photo two cat dog frog bird bear lion mouse clock apple crown bow car suitcase "
    "red blue green yellow purple white black small big , ."
).split()


@functools.cache
def tokenizer() -> CLIPTokenizer:
    """Every word of WORDS is one token, "sombrero" two, most other words split into letters."""
    return clip_tokenizer([*((word + "</w>",) for word in WORDS), ("som", "brero</w>")])


def text_encoder(hidden_act: str = "quick_gelu", layers: int = 2, cls: type = CLIPTextModel) -> CLIPTextModel:
    torch.manual_seed(1)
    tokens = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=layers,
        max_position_embeddings=77, hidden_act=hidden_act, bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id, projection_dim=32,
    )  # fmt: skip
    return cls(config).eval()


def unet(in_channels: int = 4, **overrides) -> UNet2DConditionModel:
    """Two levels with cross-attention: at the size of the latents and at half of it."""
    torch.manual_seed(2)
    config = {
        "sample_size": 16, "in_channels": in_channels, "out_channels": 4, "block_out_channels": (16, 32),
        "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 32, "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return UNet2DConditionModel(**{**config, **overrides}).eval()


ONE_LEVEL = {
    "block_out_channels": (32,), "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}  # fmt: skip
"""Of a UNet with half the layers, for what looks at every operation."""


def vae() -> AutoencoderKL:
    torch.manual_seed(3)
    return AutoencoderKL(
        block_out_channels=(16, 32), in_channels=3, out_channels=3, norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def scheduler(cls: type = DDIMScheduler, **overrides):
    config = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    }  # fmt: skip
    if cls is DDIMScheduler:
        config |= {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return cls(**{**config, **overrides})


def components(**overrides) -> dict:
    """The components of a tiny Stable Diffusion 1.x: 32 px make 16x16 latents, maps of 16x16 and 8x8."""
    parts = {
        "unet": unet(), "vae": vae(), "text_encoder": text_encoder(), "tokenizer": tokenizer(),
        "scheduler": scheduler(), "safety_checker": None, "feature_extractor": None,
    }  # fmt: skip
    return {**parts, **overrides}


def stable_diffusion(cls: type = StableDiffusionPipeline, **overrides):
    pipe = cls(**components(**overrides), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def second(**overrides):
    """A tiny Stable Diffusion 2.x: heads per level, gelu, velocity prediction, padding other than the end of text."""
    tokens = tokenizer.__wrapped__()
    tokens.pad_token = "!"
    parts = {
        "unet": unet(use_linear_projection=True, attention_head_dim=(2, 4)), "text_encoder": text_encoder("gelu"),
        "tokenizer": tokens, "scheduler": scheduler(prediction_type="v_prediction"),
    }  # fmt: skip
    return stable_diffusion(**{**parts, **overrides})


def xl_unet(**overrides) -> UNet2DConditionModel:
    """Cross-attention at half the size of the latents only, two transformer blocks each, as many as XL has places."""
    config = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2), "use_linear_projection": True, "cross_attention_dim": 64,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    }  # fmt: skip
    return unet(**{**config, **overrides})


def xl_components(**overrides) -> dict:
    """The components of a tiny Stable Diffusion XL: 32 px make 16x16 latents and maps of 8x8."""
    parts = {
        "unet": xl_unet(), "vae": vae(), "scheduler": scheduler(EulerDiscreteScheduler, steps_offset=1),
        "text_encoder": text_encoder(), "text_encoder_2": text_encoder("gelu", cls=CLIPTextModelWithProjection),
        "tokenizer": tokenizer(), "tokenizer_2": tokenizer(),
    }  # fmt: skip
    return {**parts, **overrides}


def stable_diffusion_xl(cls: type = StableDiffusionXLPipeline, **overrides):
    pipe = cls(**xl_components(**overrides), add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def refiner(**overrides):
    """A tiny XL refiner: the second text encoder only, an aesthetic score among its conditions."""
    unet = xl_unet(cross_attention_dim=32, projection_class_embeddings_input_dim=32 + 5 * 8)
    parts = {"unet": unet, "text_encoder": None, "tokenizer": None, **overrides}
    pipe = StableDiffusionXLImg2ImgPipeline(
        **xl_components(**parts), add_watermarker=False, requires_aesthetics_score=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def state(pipe) -> tuple:
    """All that guidance could leave behind: processors, hooks, instance attributes, gradient flags."""
    return (
        {name: id(p) for name, p in pipe.unet.attn_processors.items()},
        dict(pipe.unet._forward_pre_hooks),
        dict(pipe.unet._forward_hooks),
        sorted(vars(pipe.unet)),
        [id(part._compiled_call_impl) for part in pipe.unet.modules()],
        sorted(vars(pipe.scheduler)),
        [(name, p.requires_grad) for name, p in pipe.unet.named_parameters()],
        pipe.unet.is_gradient_checkpointing,
    )
