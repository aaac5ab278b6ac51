"""Model families: the only files that know how a kind of denoiser is built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import CLIPTokenizer

from attncontrol.families.aura_flow import AuraFlowFamily
from attncontrol.families.base import Family
from attncontrol.families.chroma import ChromaFamily
from attncontrol.families.flux import FluxFamily
from attncontrol.families.flux2 import Flux2Family
from attncontrol.families.pixart import PixArtFamily
from attncontrol.families.qwen_image import QwenImageFamily
from attncontrol.families.sana import SanaFamily
from attncontrol.families.sd3 import StableDiffusion3Family
from attncontrol.families.unet import UNetFamily
from attncontrol.families.xl import XLFamily
from attncontrol.families.z_image import ZImageFamily

TRANSFORMERS: tuple[type[Family], ...] = (
    AuraFlowFamily,
    ChromaFamily,
    FluxFamily,
    Flux2Family,
    PixArtFamily,
    QwenImageFamily,
    SanaFamily,
    StableDiffusion3Family,
    ZImageFamily,
)
KNOWN = {name: family for family in TRANSFORMERS for name in family.denoisers}
INSTEAD = (
    "Use a text-to-image, image-to-image, inpainting or ControlNet pipeline of Stable Diffusion 1.x, 2.x, XL or 3, "
    "FLUX.1 or 2, PixArt, Qwen-Image, Z-Image, Sana, Chroma or AuraFlow, as StableDiffusionPipeline"
)


def family_of(pipe: Any) -> Family:
    """The family of a diffusers pipeline. Raises ValueError for one that cannot be controlled."""
    denoiser = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    name = type(pipe).__name__
    if _is_compiled(denoiser):
        raise ValueError(
            f"the denoiser of this {name} is compiled by torch.compile, which hides its attention layers: use the "
            "module it was compiled from (pipe.unet._orig_mod, or a pipeline loaded afresh); other parts may stay "
            "compiled"
        )
    if type(denoiser).__name__ in KNOWN:
        return _of_transformer(pipe, denoiser, KNOWN[type(denoiser).__name__])
    if type(denoiser).__name__ != "UNet2DConditionModel":
        found = type(denoiser).__name__ if denoiser is not None else "no UNet"
        raise ValueError(
            f"{name} cannot be controlled: it has {found}, and attncontrol needs a pipeline around a "
            f"UNet2DConditionModel or one of {', '.join(KNOWN)}. {INSTEAD}"
        )
    return _of_unet(pipe, name)


def _of_transformer(pipe: Any, denoiser: nn.Module, family: type[Family]) -> Family:
    name = type(pipe).__name__
    if getattr(denoiser, "is_cache_enabled", False):
        raise ValueError(
            f"the transformer of this {name} caches what it computes, and guided passes would spoil the cache: call "
            "pipe.transformer.disable_cache() first"
        )
    for stock in type(pipe).__mro__:
        if reason := family.refused.get(stock.__name__):
            raise ValueError(f"{name} cannot be controlled: {reason}")
    made = family(pipe)
    if made.tokenizer is None:
        raise ValueError(
            f"{name} cannot be controlled: it has no tokenizer, so there are no words to guide. {INSTEAD}"
        )
    return made


def _of_unet(pipe: Any, name: str) -> Family:
    if not hasattr(pipe, "tokenizer"):
        raise ValueError(f"{name} cannot be controlled: it reads no text, so there are no words to guide. {INSTEAD}")
    for tokenizer in (pipe.tokenizer, getattr(pipe, "tokenizer_2", None)):
        if tokenizer is not None and not isinstance(tokenizer, CLIPTokenizer):
            raise ValueError(
                f"{name} cannot be controlled: its {type(tokenizer).__name__} is not CLIP's, so its words cannot be "
                f"found among the tokens. {INSTEAD}"
            )
    # asked of the class: before its first call a pipeline cannot answer the property itself
    if not hasattr(type(pipe), "do_classifier_free_guidance") and "do_classifier_free_guidance" not in vars(pipe):
        raise ValueError(
            f"{name} cannot be controlled: it has no property do_classifier_free_guidance, which says whether "
            f"the denoiser's batch holds unconditional rows. {INSTEAD}"
        )
    return XLFamily(pipe) if hasattr(pipe, "tokenizer_2") else UNetFamily(pipe)


def family_of_checkpoint(index: Mapping[str, Any]) -> type[Family]:
    """The family of a checkpoint by its model_index.json. Raises ValueError if there is none."""
    for component in ("transformer", "unet"):
        class_name = (index.get(component) or (None, None))[1]
        if class_name in KNOWN:
            return KNOWN[class_name]
        if class_name == "UNet2DConditionModel":
            return XLFamily if "tokenizer_2" in index else UNetFamily
    raise ValueError(f"a {index.get('_class_name')} has no denoiser that can be controlled. {INSTEAD}")


def has_transformer_family(stock: type | None) -> bool:
    """Whether a diffusers pipeline class is made around a transformer that has a family."""
    parameters = inspect.signature(stock.__init__).parameters if stock is not None else {}
    declared = parameters["transformer"].annotation if "transformer" in parameters else None
    return getattr(declared, "__name__", declared) in KNOWN


def _is_compiled(denoiser: Any) -> bool:
    """Whether `torch.compile` wraps the module, or it or a part of it was compiled in place."""
    parts = denoiser.modules() if isinstance(denoiser, nn.Module) else ()
    return hasattr(denoiser, "_orig_mod") or any(part._compiled_call_impl is not None for part in parts)
