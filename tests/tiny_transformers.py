"""Tiny random pipelines around diffusion transformers, and a real T5 tokenizer with a small vocabulary."""

from __future__ import annotations

import functools

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from tests import tiny


@functools.cache
def t5_tokenizer() -> PreTrainedTokenizerFast:
    """A SentencePiece unigram as T5's, without a start token: WORDS are one piece each, others fall into letters."""
    words = [("▁" + word, -2.0) for word in tiny.WORDS]
    letters = [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz▁,.'-"]
    core = Tokenizer(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *words, *letters], unk_id=2))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def t5_encoder(width: int = 32) -> T5EncoderModel:
    torch.manual_seed(4)
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def vae(channels: int) -> AutoencoderKL:
    """Latents of half the picture's size."""
    torch.manual_seed(3)
    return AutoencoderKL(
        block_out_channels=(16, 32), in_channels=3, out_channels=3, norm_num_groups=8, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        shift_factor=0.0, scaling_factor=1.0,
    ).eval()  # fmt: skip


def flux(cls: type = FluxPipeline):
    """A tiny FLUX.1: 32 px make 16x16 latents, 8x8 tokens; two joint and two single blocks."""
    torch.manual_seed(2)
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    ).eval()  # fmt: skip
    pipe = cls(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(4), transformer=transformer,
        text_encoder=tiny.text_encoder(cls=CLIPTextModel), tokenizer=tiny.tokenizer(),
        text_encoder_2=t5_encoder(), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip
    return quiet(pipe)


def sd3():
    """A tiny Stable Diffusion 3: 32 px make 16x16 latents, 8x8 patches; three joint blocks."""
    torch.manual_seed(2)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
    ).eval()  # fmt: skip
    pipe = StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(4), transformer=transformer,
        text_encoder=tiny.text_encoder(cls=CLIPTextModelWithProjection), tokenizer=tiny.tokenizer(),
        text_encoder_2=tiny.text_encoder("gelu", cls=CLIPTextModelWithProjection), tokenizer_2=tiny.tokenizer(),
        text_encoder_3=t5_encoder(64), tokenizer_3=t5_tokenizer(),
    )  # fmt: skip
    return quiet(pipe)


def pixart():
    """A tiny PixArt-Sigma: 32 px make 16x16 latents, 8x8 patches; three blocks."""
    torch.manual_seed(2)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3,
        cross_attention_dim=32, sample_size=16, patch_size=2, caption_channels=32, norm_num_groups=4,
        use_additional_conditions=False,
    ).eval()  # fmt: skip
    pipe = PixArtSigmaPipeline(
        scheduler=DPMSolverMultistepScheduler(), vae=vae(4), transformer=transformer,
        text_encoder=t5_encoder(), tokenizer=t5_tokenizer(),
    )  # fmt: skip
    return quiet(pipe)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


TRANSFORMERS = {"FLUX.1": flux, "SD 3": sd3, "PixArt-Sigma": pixart}
