"""Builds what the table needs of diffusers: pipelines, ControlNets, adapters, on tiny random weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from tests import tiny


@functools.cache
def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@functools.cache
def mask() -> Image.Image:
    return Image.fromarray(np.repeat(np.uint8([[0, 255]]), 16, axis=1).repeat(32, axis=0))


def pipeline(cls: type, unet: dict | None = None, **components: Any) -> Any:
    """A tiny pipeline; the parts that no case changes are built once."""
    pipe = cls(**{**shared(), "unet": tiny.unet(**unet or {}), "scheduler": tiny.scheduler(), **components})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def xl_pipeline(cls: type, **components: Any) -> Any:
    """A tiny pipeline of Stable Diffusion XL, likewise."""
    pipe = cls(**{**shared_xl(), "unet": tiny.xl_unet(), **components})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def shared_xl() -> dict[str, Any]:
    return {name: part for name, part in tiny.xl_components().items() if name != "unet"}


@functools.cache
def shared() -> dict[str, Any]:
    names = ("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor")
    return {**{name: tiny.components()[name] for name in names}, "requires_safety_checker": False}


def randomised(module: torch.nn.Module, seed: int) -> Any:
    """The module with random weights where it starts with zeros."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.1, generator=generator)
    return module.eval()


def controlnet(seed: int = 4) -> diffusers.ControlNetModel:
    return randomised(
        diffusers.ControlNetModel.from_unet(tiny.unet(), conditioning_embedding_out_channels=(8, 16)), seed
    )


def xl_controlnet() -> diffusers.ControlNetModel:
    return randomised(
        diffusers.ControlNetModel.from_unet(tiny.xl_unet(), conditioning_embedding_out_channels=(8, 16)), seed=4
    )


def t2i_adapter() -> diffusers.T2IAdapter:
    torch.manual_seed(5)
    return diffusers.T2IAdapter(channels=[16, 32], num_res_blocks=1, downscale_factor=2).eval()


def xl_t2i_adapter() -> diffusers.T2IAdapter:
    torch.manual_seed(5)
    settings = {"num_res_blocks": 1, "downscale_factor": 4, "adapter_type": "full_adapter_xl"}
    return diffusers.T2IAdapter(channels=[16, 32, 32, 32], **settings).eval()


def ip_adapter(xl: bool = False) -> Any:
    pipe = xl_pipeline(diffusers.StableDiffusionXLPipeline) if xl else pipeline(diffusers.StableDiffusionPipeline)
    text_width = pipe.unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(6)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / 4

    layers = [name for name in pipe.unet.attn_processors if ".attn2." in name]
    attention = {}
    for i, name in enumerate(layers):
        width = pipe.unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        attention |= {f"{2 * i + 1}.to_{part}_ip.weight": random(*width) for part in "kv"}
    projection = {"proj.weight": random(4 * text_width, 32), "proj.bias": random(4 * text_width)}
    projection |= {"norm.weight": torch.ones(text_width), "norm.bias": torch.zeros(text_width)}
    pipe.load_ip_adapter(
        {"image_proj": projection, "ip_adapter": attention}, subfolder="", weight_name="", image_encoder_folder=None
    )
    return pipe


def lora_weights(unet: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Random weights of rank 2 for every projection of every attention layer."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, module in unet.named_modules():
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")):
            rows, columns = module.weight.shape
            weights[f"unet.{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator) / 4
            weights[f"unet.{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) / 4
    return weights


def lora(names: tuple[str, ...] = ("one",), fuse: bool = False, xl: bool = False) -> Any:
    pipe = xl_pipeline(diffusers.StableDiffusionXLPipeline) if xl else pipeline(diffusers.StableDiffusionPipeline)
    plain = tiny.xl_unet() if xl else tiny.unet()
    for seed, name in enumerate(names):
        pipe.load_lora_weights(lora_weights(plain, seed), adapter_name=name)
    pipe.set_adapters(list(names), [0.7] * len(names))
    if fuse:
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    return pipe


def textual_inversion() -> Any:
    parts = {"text_encoder": tiny.text_encoder(), "tokenizer": tiny.tokenizer.__wrapped__()}
    pipe = pipeline(diffusers.StableDiffusionPipeline, **parts)
    pipe.load_textual_inversion(torch.randn(2, 32, generator=torch.Generator().manual_seed(7)), token="<toy>")
    return pipe


def helped(helper: Callable[[Any], Any], unet: dict | None = None) -> Callable[[], Any]:
    """The text-to-image pipeline with one of diffusers' helpers switched on."""

    def build() -> Any:
        pipe = pipeline(diffusers.StableDiffusionPipeline, unet, vae=tiny.vae(), text_encoder=tiny.text_encoder())
        helper(pipe)
        return pipe

    return build


def replace_by_compiled(pipe: Any) -> None:
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def group_offload(pipe: Any, **settings: Any) -> None:
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), **settings)


def text_to_image(cls: type = diffusers.StableDiffusionPipeline, unet: dict | None = None, **components: Any):
    return functools.partial(pipeline, cls, unet, **components)


def scheduled(cls: type, **settings: Any) -> Callable[[], Any]:
    return lambda: pipeline(diffusers.StableDiffusionPipeline, scheduler=tiny.scheduler(cls, **settings))
