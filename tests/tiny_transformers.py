"""Tiny random pipelines around diffusion transformers."""

from __future__ import annotations

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests import tiny
from tests.tiny_language import (
    bert_encoder,
    bert_tokenizer,
    gemma,
    gemma_tokenizer,
    glm_tokenizer,
    lumina_tokenizer,
    mistral_tokenizer,
    qwen3,
    qwen_tokenizer,
    t5_encoder,
    t5_tokenizer,
)

HEADS = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32, "axes_dims_rope": (4, 4, 8)}


def vae(channels: int, levels: int = 1) -> AutoencoderKL:
    """Latents of half the picture's size for every level."""
    torch.manual_seed(3)
    return AutoencoderKL(
        block_out_channels=(16, *(32,) * levels), in_channels=3, out_channels=3, norm_num_groups=8,
        latent_channels=channels, down_block_types=("DownEncoderBlock2D",) * (levels + 1),
        up_block_types=("UpDecoderBlock2D",) * (levels + 1),
        shift_factor=0.0, scaling_factor=1.0,
    ).eval()  # fmt: skip


def pipeline(cls: type, transformer, coder, scheduler=None, **text):
    """A quiet pipeline of tiny parts, with a scheduler of flow matching unless another is given."""
    scheduler = scheduler or FlowMatchEulerDiscreteScheduler()
    return quiet(cls(scheduler=scheduler, vae=coder, transformer=transformer.eval(), **text))


def t5(name: str = "", width: int = 32) -> dict:
    """A T5 and its tokenizer, as the pipeline's text encoder of that number."""
    return {f"text_encoder{name}": t5_encoder(width), f"tokenizer{name}": t5_tokenizer()}


def clip(name: str = "", activation: str = "quick_gelu", cls: type = CLIPTextModelWithProjection) -> dict:
    """CLIP's, likewise."""
    return {f"text_encoder{name}": tiny.text_encoder(activation, cls=cls), f"tokenizer{name}": tiny.tokenizer()}


def flux(cls: type = FluxPipeline, channels: int = 16):
    """A tiny FLUX.1: 32 px make 16x16 latents, 8x8 tokens; two joint and two single blocks."""
    torch.manual_seed(2)
    transformer = FluxTransformer2DModel(
        in_channels=channels, out_channels=16, num_layers=2, num_single_layers=2, pooled_projection_dim=32,
        guidance_embeds=True, **HEADS,
    )  # fmt: skip
    return pipeline(cls, transformer, vae(4), **clip(cls=CLIPTextModel), **t5("_2"))


def sd3(channels: int = 4):
    """A tiny Stable Diffusion 3: 32 px make 16x16 latents, 8x8 patches; three joint blocks."""
    torch.manual_seed(2)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=channels, num_layers=3, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=channels,
    )  # fmt: skip
    texts = {**clip(), **clip("_2", "gelu"), **t5("_3", width=64)}
    return pipeline(StableDiffusion3Pipeline, transformer, vae(channels), **texts)


def pixart():
    """A tiny PixArt-Sigma: 32 px make 16x16 latents, 8x8 patches; three blocks."""
    torch.manual_seed(2)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3,
        cross_attention_dim=32, sample_size=16, patch_size=2, caption_channels=32, norm_num_groups=4,
        use_additional_conditions=False,
    )  # fmt: skip
    return pipeline(PixArtSigmaPipeline, transformer, vae(4), DPMSolverMultistepScheduler(), **t5())


def qwen_image():
    """A tiny Qwen-Image: 32 px make 16x16 latents, 8x8 tokens; three joint blocks."""
    torch.manual_seed(2)
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=3, **HEADS
    )  # fmt: skip
    tokenizer = qwen_tokenizer()
    return pipeline(QwenImagePipeline, transformer, qwen_vae(), text_encoder=qwen3(tokenizer), tokenizer=tokenizer)


def qwen_vae(levels: int = 1) -> AutoencoderKLQwenImage:
    """Latents of half the picture's size for every level."""
    torch.manual_seed(3)
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1] * (levels + 1), num_res_blocks=1, temperal_downsample=[False] * levels,
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip


def flux2_parts(**settings) -> dict:
    """What FLUX.2 and Klein share: 32 px make 8x8 latents of 16 channels; two joint and two single blocks."""
    torch.manual_seed(2)
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, axes_dims_rope=(4, 4, 4, 4), timestep_guidance_channels=32, **settings,
    )  # fmt: skip
    torch.manual_seed(3)
    coder = AutoencoderKLFlux2(
        block_out_channels=(16, 32), norm_num_groups=8, latent_channels=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip
    return {"coder": coder, "transformer": transformer}


def flux2():
    tokenizer = mistral_tokenizer()
    return pipeline(Flux2Pipeline, **flux2_parts(), text_encoder=qwen3(tokenizer, 16), tokenizer=tokenizer)


def klein():
    tokenizer = qwen_tokenizer()
    parts = flux2_parts(guidance_embeds=False)
    return pipeline(Flux2KleinPipeline, **parts, text_encoder=qwen3(tokenizer, 16), tokenizer=tokenizer)


def z_image(refiners: int = 1):
    """A tiny Z-Image: 32 px make 16x16 latents, 8x8 patches; three blocks behind refiners of image and text."""
    torch.manual_seed(2)
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=3, n_refiner_layers=refiners, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[4, 6, 6], axes_lens=[256, 32, 32],
    )  # fmt: skip
    tokenizer = qwen_tokenizer()
    return pipeline(ZImagePipeline, transformer, vae(4), text_encoder=qwen3(tokenizer), tokenizer=tokenizer)


def sana():
    """A tiny Sana: 32 px make 8x8 latents; three blocks."""
    torch.manual_seed(2)
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=3,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=32,
        sample_size=8,
    )  # fmt: skip
    torch.manual_seed(3)
    coder = AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_types="ResBlock", decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8, 16), decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1,) * 3, decoder_layers_per_block=(1,) * 3,
        encoder_qkv_multiscales=((),) * 3, decoder_qkv_multiscales=((),) * 3,
    ).eval()  # fmt: skip
    tokenizer = gemma_tokenizer()
    solver = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    return pipeline(SanaPipeline, transformer, coder, solver, text_encoder=gemma(tokenizer), tokenizer=tokenizer)


def chroma():
    """A tiny Chroma: as the tiny FLUX.1."""
    torch.manual_seed(2)
    transformer = ChromaTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, approximator_num_channels=16, approximator_hidden_dim=32,
        approximator_layers=1, **HEADS,
    )  # fmt: skip
    return pipeline(ChromaPipeline, transformer, vae(4), **t5())


def aura_flow():
    """A tiny AuraFlow: 32 px make 16x16 latents, 8x8 patches; two joint and two single blocks."""
    torch.manual_seed(2)
    transformer = AuraFlowTransformer2DModel(
        sample_size=16, in_channels=4, out_channels=4, num_mmdit_layers=2, num_single_dit_layers=2,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
        pos_embed_max_size=64,
    )  # fmt: skip
    return pipeline(AuraFlowPipeline, transformer, vae(4), **t5())


def lumina2(refiners: int = 1):
    """A tiny Lumina 2: 128 px make 16x16 latents, 8x8 patches; three blocks behind refiners; half as many keys.

    The pipeline counts 8 pixels a latent, whatever its VAE.
    """
    torch.manual_seed(2)
    transformer = Lumina2Transformer2DModel(
        sample_size=16, in_channels=4, hidden_size=32, num_layers=3, num_refiner_layers=refiners,
        num_attention_heads=2, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 6, 6), axes_lens=(300, 32, 32),
        cap_feat_dim=32,
    )  # fmt: skip
    tokenizer = lumina_tokenizer()
    return pipeline(Lumina2Pipeline, transformer, vae(4), text_encoder=gemma(tokenizer), tokenizer=tokenizer)


def cogview4(channels: int = 4):
    """A tiny CogView 4: 32 px make 16x16 latents, 8x8 patches; three blocks."""
    torch.manual_seed(2)
    transformer = CogView4Transformer2DModel(
        in_channels=channels, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
        text_embed_dim=32, time_embed_dim=32, condition_dim=8, pos_embed_max_size=64, sample_size=16,
        rope_axes_dim=(64, 64),
    )  # fmt: skip
    tokenizer = glm_tokenizer()
    return pipeline(CogView4Pipeline, transformer, vae(4), text_encoder=qwen3(tokenizer), tokenizer=tokenizer)


def hunyuan_dit():
    """A tiny HunyuanDiT: 128 px make 16x16 latents, 8x8 patches; four blocks, the first and last one joined."""
    torch.manual_seed(2)
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, patch_size=2, sample_size=16, hidden_size=32,
        num_layers=4, cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=32,
    )  # fmt: skip
    return pipeline(
        HunyuanDiTPipeline, transformer, vae(4, levels=3), tiny.scheduler(), text_encoder=bert_encoder(),
        tokenizer=bert_tokenizer(), **t5("_2"), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


TRANSFORMERS = {
    "FLUX.1": flux,
    "SD 3": sd3,
    "PixArt-Sigma": pixart,
    "Qwen-Image": qwen_image,
    "FLUX.2": flux2,
    "FLUX.2 Klein": klein,
    "Z-Image": z_image,
    "Sana": sana,
    "Chroma": chroma,
    "AuraFlow": aura_flow,
    "Lumina 2": lumina2,
    "CogView 4": cogview4,
    "HunyuanDiT": hunyuan_dit,
}
CALLS = {
    "PixArtSigmaPipeline": {"use_resolution_binning": False, "clean_caption": False},
    "SanaPipeline": {"use_resolution_binning": False, "clean_caption": False},
    "Flux2Pipeline": {"text_encoder_out_layers": (0, 1, 2), "max_sequence_length": 96},
    "Flux2KleinPipeline": {"text_encoder_out_layers": (0, 1, 2), "max_sequence_length": 96},
    "HunyuanDiTPipeline": {"use_resolution_binning": False, "height": 128, "width": 128},
    "Lumina2Pipeline": {"height": 128, "width": 128},
}
"""What the tiny pipelines of a class must be called with."""
