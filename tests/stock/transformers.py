"""The pipelines around diffusion transformers that control works with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests import tiny_transformers as tiny
from tests.stock.builders import mask, picture, randomised
from tests.stock.supported import IMAGE, INPAINT, Case
from tests.tiny_language import qwen_tokenizer, sizes

SIZE = {"height": 32, "width": 32}
PLAIN_SIZES = {"use_resolution_binning": False, "clean_caption": False, **SIZE}
FEW_STATES = {"text_encoder_out_layers": (0, 1, 2), "max_sequence_length": 96, **SIZE}
CONTROL_IMAGE = {"control_image": picture(), **SIZE}


def around(build: Callable[[], Any], cls: type, **more: Any) -> Any:
    """Another pipeline with the components of a tiny one."""
    known = inspect.signature(cls.__init__).parameters
    parts = {name: part for name, part in build().components.items() if name in known}
    return tiny.quiet(cls(**{**parts, **more}))


def case(name: str, build: Callable[[], Any], call: dict[str, Any], note: str = "", **more: Any) -> Case:
    """A row around the components of a tiny pipeline; parts that depend on its transformer are functions of it."""
    cls = getattr(diffusers, name.partition(",")[0])

    def made() -> Any:
        pipe = build()
        parts = {key: part(pipe.transformer) if callable(part) else part for key, part in more.items()}
        return around(lambda: pipe, cls, **parts)

    return Case(name, made, call, note)


def flux_controlnet(transformer: Any) -> Any:
    config = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    return randomised(diffusers.FluxControlNetModel.from_transformer(transformer, **config), seed=4)


def sd3_controlnet(transformer: Any) -> Any:
    config = {**transformer.config, "num_layers": 1, "extra_conditioning_channels": 0}
    return randomised(diffusers.SD3ControlNetModel.from_config(config), seed=4)


def qwen_controlnet(transformer: Any) -> Any:
    config = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    return randomised(diffusers.QwenImageControlNetModel.from_transformer(transformer, **config), seed=4)


def sana_controlnet(transformer: Any) -> Any:
    config = {**transformer.config, "num_layers": 1}
    return randomised(diffusers.SanaControlNetModel.from_config(config), seed=4)


def hunyuan_controlnet(transformer: Any) -> Any:
    known = inspect.signature(diffusers.HunyuanDiT2DControlNetModel.__init__).parameters
    config = {name: value for name, value in transformer.config.items() if name in known}
    config["transformer_num_layers"] = transformer.config.num_layers
    return randomised(diffusers.HunyuanDiT2DControlNetModel.from_config(config), seed=4)


def qwen_edit(cls: type) -> Any:
    """A pipeline whose text encoder sees its picture of a megapixel, which makes 16x16 reference tokens."""
    tokenizer = qwen_tokenizer()
    processor = Qwen2VLProcessor.__new__(Qwen2VLProcessor)  # its __init__ wants a video processor, so torchvision
    processor.image_processor = Qwen2VLImageProcessorPil(min_pixels=56**2, max_pixels=112**2)
    processor.tokenizer, processor.video_processor = tokenizer, None
    processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
    processor.image_token_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    processor.image_ids, processor.video_ids = [processor.image_token_id], []
    torch.manual_seed(4)
    config = Qwen2_5_VLConfig(
        text_config={
            **sizes(tokenizer, 32), "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32,
            "fullatt_block_indexes": [0],
        },
        image_token_id=processor.image_token_id,
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )  # fmt: skip
    encoder = Qwen2_5_VLForConditionalGeneration(config).eval()
    return around(tiny.qwen_image, cls, vae=tiny.qwen_vae(5), processor=processor, text_encoder=encoder)


def lora(build: Callable[[], Any]) -> Callable[[], Any]:
    """A pipeline with a LoRA of rank 2 over every attention projection of its transformer."""

    def made() -> Any:
        pipe, generator, weights = build(), torch.Generator().manual_seed(5), {}
        for name, module in pipe.transformer.named_modules():
            if name.endswith((".to_q", ".to_k", ".to_v")):
                rows, columns = module.weight.shape
                weights[f"transformer.{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator) / 4
                weights[f"transformer.{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) / 4
        pipe.load_lora_weights(weights, adapter_name="one")
        return pipe

    return made


def flux_ip_adapter() -> Any:
    pipe, generator = tiny.flux(), torch.Generator().manual_seed(6)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / 4

    width = pipe.transformer.config.joint_attention_dim
    attention = {}
    for i in range(len(pipe.transformer.transformer_blocks)):
        for part in "kv":
            attention |= {f"{i}.to_{part}_ip.weight": random(32, width), f"{i}.to_{part}_ip.bias": random(32)}
    projection = {"proj.weight": random(4 * width, 16), "proj.bias": random(4 * width)}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    pipe.load_ip_adapter(
        {"image_proj": projection, "ip_adapter": attention},
        weight_name="",
        image_encoder_pretrained_model_name_or_path=None,
    )
    return pipe


def scheduled(build: Callable[[], Any], scheduler: Any) -> Callable[[], Any]:
    def made() -> Any:
        pipe = build()
        pipe.scheduler = scheduler
        return pipe

    return made


KONTEXT = {"image": picture(), "max_area": 1024, "_auto_resize": False, **SIZE}
REFERENCES = "tokens of the pictures are keys, not queries of a map"
EDIT = {"image": picture(), "height": 512, "width": 512}
HUNYUAN = tiny.CALLS["HunyuanDiTPipeline"]
FLOW = diffusers.FlowMatchEulerDiscreteScheduler

TRANSFORMER_PIPELINES = [
    Case("FluxPipeline", tiny.flux, SIZE),
    Case(
        "FluxPipeline, true CFG",
        tiny.flux,
        {**SIZE, "true_cfg_scale": 3.0, "negative_prompt": "a dog"},
        "the negative prompt's call gets the same move",
    ),
    case("FluxImg2ImgPipeline", tiny.flux, {**IMAGE, **SIZE}),
    case("FluxInpaintPipeline", tiny.flux, {**INPAINT, **SIZE}),
    case("FluxKontextPipeline", tiny.flux, KONTEXT, REFERENCES),
    case(
        "FluxFillPipeline",
        lambda: tiny.flux(channels=48),
        {"image": picture(), "mask_image": mask(), **SIZE},
        "only the latents move, not the mask and the masked picture",
    ),
    case("FluxControlPipeline", lambda: tiny.flux(channels=32), CONTROL_IMAGE),
    case("FluxControlNetPipeline", tiny.flux, CONTROL_IMAGE, controlnet=flux_controlnet),
    case("FluxControlNetImg2ImgPipeline", tiny.flux, {**CONTROL_IMAGE, **IMAGE}, controlnet=flux_controlnet),
    case("FluxControlNetInpaintPipeline", tiny.flux, {**CONTROL_IMAGE, **INPAINT}, controlnet=flux_controlnet),
    Case("StableDiffusion3Pipeline", tiny.sd3, SIZE),
    Case(
        "StableDiffusion3Pipeline, skip-layer guidance",
        tiny.sd3,
        {**SIZE, "skip_guidance_layers": [1], "skip_layer_guidance_stop": 1.0},
        "its third call gets the same move",
    ),
    case("StableDiffusion3Img2ImgPipeline", tiny.sd3, {**IMAGE, **SIZE}),
    case("StableDiffusion3InpaintPipeline", lambda: tiny.sd3(channels=16), {**INPAINT, **SIZE}),
    case("StableDiffusion3ControlNetPipeline", tiny.sd3, CONTROL_IMAGE, controlnet=sd3_controlnet),
    case("StableDiffusion3PAGPipeline", tiny.sd3, {**SIZE, "pag_scale": 3.0}, pag_applied_layers=["blocks.1"]),
    Case("PixArtSigmaPipeline", tiny.pixart, PLAIN_SIZES),
    case("PixArtAlphaPipeline", tiny.pixart, {**PLAIN_SIZES}),
    case("PixArtSigmaPAGPipeline", tiny.pixart, {**PLAIN_SIZES, "pag_scale": 3.0}, pag_applied_layers=["blocks.1"]),
    Case("QwenImagePipeline", tiny.qwen_image, {**SIZE, "negative_prompt": "a dog"}),
    case("QwenImageImg2ImgPipeline", tiny.qwen_image, {**IMAGE, **SIZE}),
    case("QwenImageInpaintPipeline", tiny.qwen_image, {**INPAINT, **SIZE}),
    case("QwenImageControlNetPipeline", tiny.qwen_image, CONTROL_IMAGE, controlnet=qwen_controlnet),
    Case("QwenImageEditPipeline", lambda: qwen_edit(diffusers.QwenImageEditPipeline), EDIT, REFERENCES),
    Case(
        "QwenImageEditPlusPipeline",
        lambda: qwen_edit(diffusers.QwenImageEditPlusPipeline),
        {**EDIT, "image": [picture(), picture()]},
        REFERENCES,
    ),
    Case("Flux2Pipeline", tiny.flux2, FEW_STATES),
    Case(
        "Flux2Pipeline, with a reference", tiny.flux2, {**FEW_STATES, "image": picture().resize((64, 64))}, REFERENCES
    ),
    Case("Flux2KleinPipeline", tiny.klein, {**FEW_STATES, "image": picture().resize((64, 64))}, REFERENCES),
    Case("ZImagePipeline", tiny.z_image, SIZE),
    Case(
        "ZImagePipeline, cfg_truncation",
        tiny.z_image,
        {**SIZE, "cfg_truncation": 0.4},
        "calls without an unconditional copy among those with one",
    ),
    case("ZImageImg2ImgPipeline", tiny.z_image, {**IMAGE, **SIZE}),
    case("ZImageInpaintPipeline", tiny.z_image, {**INPAINT, **SIZE}),
    Case("SanaPipeline", tiny.sana, PLAIN_SIZES),
    case("SanaControlNetPipeline", tiny.sana, {**CONTROL_IMAGE, **PLAIN_SIZES}, controlnet=sana_controlnet),
    case("SanaPAGPipeline", tiny.sana, {**PLAIN_SIZES, "pag_scale": 3.0}, pag_applied_layers=["transformer_blocks.1"]),
    Case("ChromaPipeline", tiny.chroma, SIZE),
    case("ChromaImg2ImgPipeline", tiny.chroma, {**IMAGE, **SIZE}),
    Case("AuraFlowPipeline", tiny.aura_flow, SIZE),
    Case("Lumina2Pipeline", tiny.lumina2, {"height": 128, "width": 128}),
    Case(
        "Lumina2Pipeline, cfg_trunc_ratio",
        tiny.lumina2,
        {"height": 128, "width": 128, "cfg_trunc_ratio": 0.4},
        "steps without the negative prompt's call",
    ),
    Case("HunyuanDiTPipeline", tiny.hunyuan_dit, HUNYUAN),
    case(
        "HunyuanDiTControlNetPipeline",
        tiny.hunyuan_dit,
        {"control_image": picture().resize((128, 128)), **HUNYUAN},
        controlnet=hunyuan_controlnet,
    ),
    case("HunyuanDiTPAGPipeline", tiny.hunyuan_dit, {**HUNYUAN, "pag_scale": 3.0}, pag_applied_layers=["blocks.1"]),
    Case("CogView4Pipeline", tiny.cogview4, SIZE),
    case("CogView4ControlPipeline", lambda: tiny.cogview4(channels=8), {"control_image": picture(), **SIZE}),
]
TRANSFORMER_ADDITIONS = [
    Case("LoRA, FLUX.1", lora(tiny.flux), {**SIZE, "joint_attention_kwargs": {"scale": 0.6}}),
    Case("LoRA, SD 3", lora(tiny.sd3), {**SIZE, "joint_attention_kwargs": {"scale": 0.6}}),
    Case("LoRA, Qwen-Image", lora(tiny.qwen_image), {**SIZE, "attention_kwargs": {"scale": 0.6}}),
    Case(
        "IP-Adapter, FLUX.1",
        flux_ip_adapter,
        {
            **SIZE,
            "ip_adapter_image_embeds": [torch.ones(1, 1, 16)],
            "negative_ip_adapter_image_embeds": [torch.zeros(1, 1, 16)],
        },
    ),
]
TRANSFORMER_SCHEDULERS = [
    Case(
        "FlowMatchEulerDiscreteScheduler, stochastic_sampling",
        scheduled(tiny.flux, FLOW(stochastic_sampling=True)),
        SIZE,
    ),
    Case(
        "FlowMatchHeunDiscreteScheduler",
        scheduled(tiny.sd3, diffusers.FlowMatchHeunDiscreteScheduler()),
        SIZE,
        "only the first model call of a step is guided",
    ),
    Case("EulerDiscreteScheduler, PixArt", scheduled(tiny.pixart, diffusers.EulerDiscreteScheduler()), PLAIN_SIZES),
    Case("FlowMatchEulerDiscreteScheduler, Sana", scheduled(tiny.sana, FLOW()), PLAIN_SIZES),
]
