"""The stock pipelines, schedulers and helpers of diffusers that control works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import accelerate
import diffusers
import tomesd
import torch

from tests import tiny
from tests.grounding import gated
from tests.stock.builders import (
    controlnet,
    group_offload,
    helped,
    ip_adapter,
    lora,
    mask,
    picture,
    pipeline,
    replace_by_compiled,
    scheduled,
    t2i_adapter,
    text_to_image,
    textual_inversion,
    xl_controlnet,
    xl_pipeline,
    xl_t2i_adapter,
)

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
        "StableDiffusionGLIGENPipeline",
        gated.gligen,
        {"gligen_phrases": ["cat"], "gligen_boxes": [[0.1, 0.2, 0.6, 0.9]]},
        "its own boxes, or with `grounding` those of the layout",
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
    Case(
        "tomesd.apply_patch",
        helped(lambda pipe: tomesd.apply_patch(pipe, ratio=0.5, use_rand=False)),
        note="which tokens merge is drawn anew in every call, the guided ones too; not so with `use_rand=False`",
    ),
    Case("enable_freeu", helped(lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4))),
    Case(
        "pipe.unet = torch.compile(pipe.unet)",
        helped(replace_by_compiled, tiny.ONE_LEVEL),
        note="before or under control; guided passes run the modules as they were written",
    ),
    Case(
        "unet.compile()",
        helped(lambda pipe: pipe.unet.compile(backend="eager"), tiny.ONE_LEVEL),
        note="likewise",
    ),
    Case(
        "unet.compile_repeated_blocks()",
        helped(lambda pipe: pipe.unet.compile_repeated_blocks(backend="eager"), tiny.ONE_LEVEL),
        note="likewise",
    ),
]
