"""The table of stock pipelines, schedulers and helpers of diffusers that `attach` is tested with, on tiny weights.

The support matrix in the README is made of this table: `python -m tests.stock` prints it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import accelerate
import diffusers
import numpy as np
import tokenizers
import torch
import transformers
from PIL import Image

from tests import tiny

PROMPT = "a cat and a frog"


@dataclass(frozen=True)
class Case:
    """A row: what it is, how its pipeline is built and called, and what a reader should know of its behaviour."""

    name: str
    build: Callable[[], Any]
    call: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    prompt: str = PROMPT
    subjects: list[str] | None = None


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


def helped(helper: Callable[[Any], Any]) -> Callable[[], Any]:
    """The text-to-image pipeline with one of diffusers' helpers switched on."""

    def build() -> Any:
        pipe = pipeline(diffusers.StableDiffusionPipeline, vae=tiny.vae(), text_encoder=tiny.text_encoder())
        helper(pipe)
        return pipe

    return build


def group_offload(pipe: Any, **settings: Any) -> None:
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), **settings)


def text_to_image(cls: type = diffusers.StableDiffusionPipeline, unet: dict | None = None, **components: Any):
    return functools.partial(pipeline, cls, unet, **components)


def scheduled(cls: type, **settings: Any) -> Callable[[], Any]:
    return lambda: pipeline(diffusers.StableDiffusionPipeline, scheduler=tiny.scheduler(cls, **settings))


IMAGE = {"image": picture(), "strength": 0.8}
INPAINT = {"image": picture(), "mask_image": mask(), "strength": 1.0}
PAG = {"pag_scale": 3.0}
PAG_LAYERS = {"pag_applied_layers": ["mid", "up.*1"]}

PIPELINES = [
    Case("StableDiffusionPipeline", text_to_image()),
    Case("StableDiffusionImg2ImgPipeline", text_to_image(diffusers.StableDiffusionImg2ImgPipeline), IMAGE),
    Case(
        "StableDiffusionInpaintPipeline",
        text_to_image(diffusers.StableDiffusionInpaintPipeline),
        INPAINT,
        "UNet of 4 channels: the picture outside the mask is put back after each step",
    ),
    Case(
        "StableDiffusionInpaintPipeline, 9 channels",
        text_to_image(diffusers.StableDiffusionInpaintPipeline, {"in_channels": 9}),
        INPAINT,
        "only the latents move, not the mask and the masked picture",
    ),
    Case(
        "StableDiffusionControlNetPipeline",
        lambda: pipeline(diffusers.StableDiffusionControlNetPipeline, controlnet=controlnet()),
        {"image": picture()},
        "the ControlNet sees the latents before they move",
    ),
    Case(
        "StableDiffusionControlNetPipeline, two ControlNets",
        lambda: pipeline(diffusers.StableDiffusionControlNetPipeline, controlnet=[controlnet(4), controlnet(8)]),
        {"image": [picture(), picture("L").convert("RGB")], "controlnet_conditioning_scale": [0.5, 1.0]},
    ),
    Case(
        "StableDiffusionControlNetImg2ImgPipeline",
        lambda: pipeline(diffusers.StableDiffusionControlNetImg2ImgPipeline, controlnet=controlnet()),
        {**IMAGE, "control_image": picture()},
    ),
    Case(
        "StableDiffusionControlNetInpaintPipeline",
        lambda: pipeline(diffusers.StableDiffusionControlNetInpaintPipeline, controlnet=controlnet()),
        {**INPAINT, "control_image": picture()},
    ),
    Case(
        "StableDiffusionAdapterPipeline",
        lambda: pipeline(diffusers.StableDiffusionAdapterPipeline, adapter=t2i_adapter()),
        {"image": picture()},
        "T2I-Adapter",
    ),
    Case(
        "StableDiffusionPAGPipeline",
        text_to_image(diffusers.StableDiffusionPAGPipeline, **PAG_LAYERS),
        PAG,
        "the unperturbed conditional rows are guided",
    ),
    Case(
        "StableDiffusionPAGPipeline, guidance_scale=1",
        text_to_image(diffusers.StableDiffusionPAGPipeline, **PAG_LAYERS),
        {**PAG, "guidance_scale": 1.0},
    ),
    Case(
        "StableDiffusionPAGImg2ImgPipeline",
        text_to_image(diffusers.StableDiffusionPAGImg2ImgPipeline, **PAG_LAYERS),
        {**PAG, **IMAGE},
    ),
    Case(
        "StableDiffusionControlNetPAGPipeline",
        lambda: pipeline(diffusers.StableDiffusionControlNetPAGPipeline, controlnet=controlnet(), **PAG_LAYERS),
        {**PAG, "image": picture()},
    ),
    Case(
        "StableDiffusionPAGInpaintPipeline",
        text_to_image(diffusers.StableDiffusionPAGInpaintPipeline, **PAG_LAYERS),
        {**PAG, **INPAINT},
    ),
    Case(
        "StableDiffusionControlNetPAGInpaintPipeline",
        lambda: pipeline(diffusers.StableDiffusionControlNetPAGInpaintPipeline, controlnet=controlnet(), **PAG_LAYERS),
        {**PAG, **INPAINT, "control_image": picture()},
    ),
    Case(
        "LatentConsistencyModelPipeline",
        text_to_image(
            diffusers.LatentConsistencyModelPipeline,
            {"time_cond_proj_dim": 32},
            scheduler=tiny.scheduler(diffusers.LCMScheduler),
        ),
        note="the guidance scale is embedded: no unconditional rows",
    ),
    Case(
        "LatentConsistencyModelImg2ImgPipeline",
        text_to_image(
            diffusers.LatentConsistencyModelImg2ImgPipeline,
            {"time_cond_proj_dim": 32},
            scheduler=tiny.scheduler(diffusers.LCMScheduler),
        ),
        IMAGE,
    ),
]

XL_PIPELINES = [
    Case("StableDiffusionXLPipeline", lambda: xl_pipeline(diffusers.StableDiffusionXLPipeline)),
    Case("StableDiffusionXLImg2ImgPipeline", lambda: xl_pipeline(diffusers.StableDiffusionXLImg2ImgPipeline), IMAGE),
    Case(
        "StableDiffusionXLInpaintPipeline",
        lambda: xl_pipeline(diffusers.StableDiffusionXLInpaintPipeline),
        {**INPAINT, "strength": 0.99},
    ),
    Case(
        "StableDiffusionXLControlNetPipeline",
        lambda: xl_pipeline(diffusers.StableDiffusionXLControlNetPipeline, controlnet=xl_controlnet()),
        {"image": picture()},
    ),
    Case(
        "StableDiffusionXLControlNetImg2ImgPipeline",
        lambda: xl_pipeline(diffusers.StableDiffusionXLControlNetImg2ImgPipeline, controlnet=xl_controlnet()),
        {**IMAGE, "control_image": picture()},
    ),
    Case(
        "StableDiffusionXLControlNetInpaintPipeline",
        lambda: xl_pipeline(diffusers.StableDiffusionXLControlNetInpaintPipeline, controlnet=xl_controlnet()),
        {**INPAINT, "strength": 0.99, "control_image": picture()},
    ),
    Case(
        "StableDiffusionXLAdapterPipeline",
        lambda: xl_pipeline(diffusers.StableDiffusionXLAdapterPipeline, adapter=xl_t2i_adapter()),
        {"image": picture()},
        "T2I-Adapter",
    ),
    Case(
        "StableDiffusionXLPAGPipeline",
        lambda: xl_pipeline(diffusers.StableDiffusionXLPAGPipeline, pag_applied_layers="mid"),
        PAG,
    ),
    Case(
        "StableDiffusionXLPAGImg2ImgPipeline",
        lambda: xl_pipeline(diffusers.StableDiffusionXLPAGImg2ImgPipeline, pag_applied_layers="mid"),
        {**PAG, **IMAGE},
    ),
    Case(
        "StableDiffusionXLPAGInpaintPipeline",
        lambda: xl_pipeline(diffusers.StableDiffusionXLPAGInpaintPipeline, pag_applied_layers="mid"),
        {**PAG, **INPAINT, "strength": 0.99},
    ),
    Case(
        "StableDiffusionXLControlNetPAGPipeline",
        lambda: xl_pipeline(
            diffusers.StableDiffusionXLControlNetPAGPipeline, controlnet=xl_controlnet(), pag_applied_layers="mid"
        ),
        {**PAG, "image": picture()},
    ),
    Case(
        "StableDiffusionXLControlNetPAGImg2ImgPipeline",
        lambda: xl_pipeline(
            diffusers.StableDiffusionXLControlNetPAGImg2ImgPipeline,
            controlnet=xl_controlnet(),
            pag_applied_layers="mid",
        ),
        {**PAG, **IMAGE, "control_image": picture()},
    ),
]

IMAGE_EMBEDS = {"ip_adapter_image_embeds": [torch.linspace(-1, 1, 64).view(2, 1, 32)]}
ADDITIONS = [
    Case("IP-Adapter", ip_adapter, IMAGE_EMBEDS),
    Case("IP-Adapter, XL", lambda: ip_adapter(xl=True), IMAGE_EMBEDS),
    Case("LoRA, loaded", lora, {"cross_attention_kwargs": {"scale": 0.5}}),
    Case("LoRA, fused", lambda: lora(fuse=True)),
    Case("LoRA, several adapters", lambda: lora(("one", "two"))),
    Case("LoRA, XL", lambda: lora(xl=True), {"cross_attention_kwargs": {"scale": 0.5}}),
    Case(
        "Textual inversion",
        textual_inversion,
        note="a learned token is a subject like any word, all its vectors together",
        prompt="a <toy> and a frog",
        subjects=["<toy>", "frog"],
    ),
]

SECOND = "only the first model call of a step is guided: the second one goes back to the first one's sample"
CORRECTOR = "guided steps are not corrected: the corrector would put the sample back"
SCHEDULERS = [
    Case("DDIMScheduler", scheduled(diffusers.DDIMScheduler)),
    Case("DDPMScheduler", scheduled(diffusers.DDPMScheduler)),
    Case(
        "PNDMScheduler",
        scheduled(diffusers.PNDMScheduler, skip_prk_steps=True, set_alpha_to_one=False),
        note="N steps make N + 1 iterations, all guided, as in the published code; the move of the second one reaches "
        "the model only",
    ),
    Case(
        "PNDMScheduler, skip_prk_steps=False",
        scheduled(diffusers.PNDMScheduler),
        {"num_inference_steps": 6},
        "only the first of the four model calls of a Runge-Kutta step is guided",
    ),
    Case("EulerDiscreteScheduler", scheduled(diffusers.EulerDiscreteScheduler)),
    Case("EulerAncestralDiscreteScheduler", scheduled(diffusers.EulerAncestralDiscreteScheduler)),
    Case("LMSDiscreteScheduler", scheduled(diffusers.LMSDiscreteScheduler)),
    Case("HeunDiscreteScheduler", scheduled(diffusers.HeunDiscreteScheduler), note=SECOND),
    Case("KDPM2DiscreteScheduler", scheduled(diffusers.KDPM2DiscreteScheduler), note=SECOND),
    Case("KDPM2AncestralDiscreteScheduler", scheduled(diffusers.KDPM2AncestralDiscreteScheduler), note=SECOND),
    Case("DPMSolverMultistepScheduler", scheduled(diffusers.DPMSolverMultistepScheduler), note="DPM++ 2M"),
    Case(
        "DPMSolverMultistepScheduler, Karras sigmas",
        scheduled(diffusers.DPMSolverMultistepScheduler, use_karras_sigmas=True),
    ),
    Case(
        "DPMSolverMultistepScheduler, sde-dpmsolver++",
        scheduled(diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
    ),
    Case(
        "DPMSolverSinglestepScheduler",
        scheduled(diffusers.DPMSolverSinglestepScheduler, lower_order_final=True),
        note="calls of order 2 and 3 start from an earlier sample: about two thirds of a move made there last",
    ),
    Case("UniPCMultistepScheduler", scheduled(diffusers.UniPCMultistepScheduler), note=CORRECTOR),
    Case("DEISMultistepScheduler", scheduled(diffusers.DEISMultistepScheduler)),
    Case("LCMScheduler", scheduled(diffusers.LCMScheduler)),
    Case("TCDScheduler", scheduled(diffusers.TCDScheduler)),
]

HELPERS = [
    Case("enable_attention_slicing", helped(lambda pipe: pipe.enable_attention_slicing(1))),
    Case("vae.enable_tiling, vae.enable_slicing", helped(lambda p: (p.vae.enable_tiling(), p.vae.enable_slicing()))),
    Case("enable_model_cpu_offload", helped(lambda pipe: pipe.enable_model_cpu_offload(device="cpu"))),
    Case(
        "enable_sequential_cpu_offload",
        helped(lambda pipe: accelerate.cpu_offload(pipe.unet, torch.device("cpu"))),
        note="the guided pass holds the weights of its layers until its backward pass is done",
    ),
    Case("enable_group_offload, leaf_level", helped(lambda pipe: group_offload(pipe, offload_type="leaf_level"))),
    Case(
        "enable_group_offload, block_level",
        helped(lambda pipe: group_offload(pipe, offload_type="block_level", num_blocks_per_group=1)),
    ),
    Case(
        "unet.enable_layerwise_casting",
        helped(lambda p: p.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)),
    ),
    Case("unet.to(memory_format=channels_last)", helped(lambda p: p.unet.to(memory_format=torch.channels_last))),
    Case("enable_freeu", helped(lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4))),
]


@dataclass(frozen=True)
class Refusal:
    """A row of what cannot be controlled: how it is made, and what the error says of the reason and of the remedy."""

    name: str
    build: Callable[[], Any]
    reason: str
    remedy: str = "Use a text-to-image, .* as StableDiffusionPipeline"
    note: str = ""
    change: Callable[[Any], Any] | None = None


def flux() -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        transformer=transformer,
    )  # fmt: skip


def stable_diffusion_3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32,
        caption_projection_dim=16, pooled_projection_dim=32, in_channels=4, out_channels=4,
    )  # fmt: skip
    names = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    return diffusers.StableDiffusion3Pipeline(transformer=transformer, scheduler=None, **dict.fromkeys(names))


def upscaler() -> Any:
    return diffusers.StableDiffusionUpscalePipeline(
        vae=tiny.vae(), text_encoder=tiny.text_encoder(), tokenizer=tiny.tokenizer(),
        unet=tiny.unet(7, num_class_embeds=1000), low_res_scheduler=tiny.scheduler(), scheduler=tiny.scheduler(),
    )  # fmt: skip


def kandinsky() -> Any:
    return diffusers.KandinskyV22Pipeline(unet=tiny.unet(), scheduler=tiny.scheduler(), movq=tiny.vae())


def animated() -> Any:
    adapter = diffusers.MotionAdapter(block_out_channels=(16, 32), motion_norm_num_groups=8, motion_layers_per_block=1)
    parts = {name: tiny.components()[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    return diffusers.AnimateDiffPipeline(motion_adapter=adapter, **parts)


def with_another_tokenizer() -> Any:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"cat": 0, "?": 1}, unk_token="?"))
    return tiny.stable_diffusion(tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=words))


def compiled(name: str, change: Callable[[Any], Any], note: str = "") -> Refusal:
    """A UNet that is compiled, before control or under it."""

    def build() -> Any:
        pipe = tiny.stable_diffusion()
        change(pipe)
        return pipe

    return Refusal(name, build, r"compiled by torch\.compile", "_orig_mod", note, change)


def replace_by_compiled(pipe: Any) -> None:
    pipe.unet = torch.compile(pipe.unet)


REFUSED = [
    compiled(
        "pipe.unet = torch.compile(pipe.unet)",
        replace_by_compiled,
        "attach to the pipeline with the module it was made of, `pipe.unet._orig_mod`; other parts may stay compiled",
    ),
    compiled("pipe.unet.compile()", lambda pipe: pipe.unet.compile(), "load the pipeline afresh"),
    compiled("pipe.unet.compile_repeated_blocks()", lambda pipe: pipe.unet.compile_repeated_blocks(), "likewise"),
    Refusal("FluxPipeline", flux, "FluxPipeline cannot be controlled: it has no UNet"),
    Refusal(
        "StableDiffusion3Pipeline",
        stable_diffusion_3,
        "StableDiffusion3Pipeline cannot be controlled: it has no UNet",
    ),
    Refusal(
        "AnimateDiffPipeline",
        animated,
        "AnimateDiffPipeline cannot be controlled: it has UNetMotionModel",
        note="its UNet makes the frames of a video together",
    ),
    Refusal(
        "StableDiffusionUpscalePipeline",
        upscaler,
        "StableDiffusionUpscalePipeline cannot be controlled: it has no property",
    ),
    Refusal("KandinskyV22Pipeline", kandinsky, "KandinskyV22Pipeline cannot be controlled: it reads no text"),
    Refusal("a tokenizer that is not CLIP's", with_another_tokenizer, "its TokenizersBackend is not CLIP's"),
]

GROUPS = {
    "Pipelines": PIPELINES + XL_PIPELINES,
    "Adapters": ADDITIONS,
    "Schedulers": SCHEDULERS,
    "Helpers": HELPERS,
    "Refused, with an error that says what to use": REFUSED,
}


def support_matrix() -> str:
    """The table of the README."""
    rows = ["| works with | |", "| --- | --- |"]
    for group, cases in GROUPS.items():
        rows.append(f"| **{group}** | |")
        rows += [f"| {_code(case.name)} | {case.note} |" for case in cases]
    return "\n".join(rows)


def _code(name: str) -> str:
    return name if name.startswith(("IP-", "LoRA", "Textual", "a ")) else f"`{name}`"


if __name__ == "__main__":
    print(support_matrix())
