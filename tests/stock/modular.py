"""Modular pipelines with what they take beside a prompt, and guiders, that control works with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import ClassifierFreeGuidance, guiders
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceConfig

from tests import tiny
from tests.stock.builders import mask, picture, xl_controlnet
from tests.stock.supported import Case
from tests.stock.transformers import REFERENCES, qwen_controlnet
from tests.tiny_modular import CALLS, MODULAR

SIZE = {"height": 32, "width": 32}
IMAGE = {"image": picture(), "strength": 0.7, **SIZE}
INPAINT = {"mask_image": mask(), **IMAGE}


def around(family: str, **parts: Callable[[Any], Any]) -> Callable[[], Any]:
    """A pipeline with further parts, made of its denoiser."""

    def made() -> Any:
        pipe = MODULAR[family]()
        denoiser = getattr(pipe, "transformer", None)
        pipe.update_components(**{name: build(denoiser) for name, build in parts.items()})
        return pipe

    return made


KLEIN = {**CALLS["FLUX.2"], **SIZE}
MODULAR_PIPELINES = [
    Case("StableDiffusionXLModularPipeline", MODULAR["SD XL"], SIZE),
    Case("StableDiffusionXLModularPipeline, image", MODULAR["SD XL"], IMAGE),
    Case("StableDiffusionXLModularPipeline, mask_image", MODULAR["SD XL"], INPAINT),
    Case(
        "StableDiffusionXLModularPipeline, control_image",
        around("SD XL", controlnet=lambda _: xl_controlnet()),
        {"control_image": picture(), **SIZE},
        "the ControlNet sees the latents before they move",
    ),
    Case("StableDiffusion3ModularPipeline", MODULAR["SD 3"], {"negative_prompt": "a dog", **SIZE}),
    Case("StableDiffusion3ModularPipeline, image", MODULAR["SD 3"], IMAGE),
    Case("FluxModularPipeline", MODULAR["FLUX.1"], SIZE),
    Case("FluxModularPipeline, image", MODULAR["FLUX.1"], IMAGE),
    Case("Flux2ModularPipeline", MODULAR["FLUX.2"], KLEIN),
    Case("Flux2ModularPipeline, image", MODULAR["FLUX.2"], {"image": picture().resize((64, 64)), **KLEIN}, REFERENCES),
    Case("Flux2KleinModularPipeline", MODULAR["FLUX.2 Klein"], KLEIN),
    Case("Flux2KleinModularPipeline, base", MODULAR["FLUX.2 Klein, base"], KLEIN),
    Case("QwenImageModularPipeline", MODULAR["Qwen-Image"], SIZE),
    Case("QwenImageModularPipeline, image", MODULAR["Qwen-Image"], IMAGE),
    Case("QwenImageModularPipeline, mask_image", MODULAR["Qwen-Image"], INPAINT),
    Case(
        "QwenImageModularPipeline, control_image",
        around("Qwen-Image", controlnet=qwen_controlnet),
        {"control_image": picture(), **SIZE},
    ),
    Case("ZImageModularPipeline", MODULAR["Z-Image"], SIZE),
    Case("ZImageModularPipeline, image", MODULAR["Z-Image"], IMAGE),
]


class NegativeFirst(ClassifierFreeGuidance):
    """A guider of a user's own, with the calls in the order of stock pipelines' batches."""

    def prepare_inputs(self, data: Any) -> list[Any]:
        return super().prepare_inputs(data)[::-1]


MIDDLE = "mid_block.attentions.0.transformer_blocks"
SKIPPED = LayerSkipConfig(indices=[0], fqn=MIDDLE)
WITHOUT_SCORES = LayerSkipConfig([0], MIDDLE, skip_attention=False, skip_attention_scores=True, skip_ff=False)
SMOOTHED = SmoothedEnergyGuidanceConfig([0], MIDDLE)


def guider(name: str, build: Callable[[], Any], note: str = "") -> Case:
    """A row: a tiny Stable Diffusion XL with a guider."""
    return Case(name, lambda: MODULAR["SD XL"](guider=build(), scheduler=tiny.scheduler()), SIZE, note)


GUIDERS = [
    guider("ClassifierFreeGuidance", ClassifierFreeGuidance),
    guider("ClassifierFreeGuidance, start=0.3", lambda: ClassifierFreeGuidance(start=0.3)),
    guider(
        "PerturbedAttentionGuidance",
        lambda: guiders.PerturbedAttentionGuidance(
            perturbed_guidance_config=WITHOUT_SCORES, perturbed_guidance_start=0.0, perturbed_guidance_stop=1.0
        ),
        "all three calls of a step get the same move",
    ),
    guider(
        "SkipLayerGuidance",
        lambda: guiders.SkipLayerGuidance(
            skip_layer_config=SKIPPED, skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0
        ),
        "likewise",
    ),
    guider(
        "AdaptiveProjectedGuidance",
        lambda: guiders.AdaptiveProjectedGuidance(adaptive_projected_guidance_momentum=-0.5),
    ),
    guider("AdaptiveProjectedMixGuidance", guiders.AdaptiveProjectedMixGuidance),
    guider("AutoGuidance", lambda: guiders.AutoGuidance(auto_guidance_config=SKIPPED)),
    guider("ClassifierFreeZeroStarGuidance", guiders.ClassifierFreeZeroStarGuidance),
    guider(
        "SmoothedEnergyGuidance",
        lambda: guiders.SmoothedEnergyGuidance(
            seg_guidance_config=SMOOTHED, seg_guidance_start=0.0, seg_guidance_stop=1.0
        ),
    ),
    guider("TangentialClassifierFreeGuidance", guiders.TangentialClassifierFreeGuidance),
    guider(
        "a guider of your own",
        NegativeFirst,
        "under control the call for the prompt comes first, whatever the guider's order",
    ),
]
