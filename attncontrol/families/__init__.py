"""Model families: the only files that know how a kind of denoiser is built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import CLIPTokenizer

from attncontrol.families.aura_flow import AuraFlowFamily
from attncontrol.families.base import Family
from attncontrol.families.caches import check_no_cache
from attncontrol.families.chroma import ChromaFamily
from attncontrol.families.cogview4 import CogView4Family
from attncontrol.families.compiled import original
from attncontrol.families.flux import FluxFamily
from attncontrol.families.flux2 import Flux2Family
from attncontrol.families.gligen import GatedUNetFamily, GroundedUNetFamily, has_gates, tells_of_guidance
from attncontrol.families.hunyuan_dit import HunyuanDiTFamily
from attncontrol.families.lumina2 import Lumina2Family
from attncontrol.families.modular import stock_classes, stock_like
from attncontrol.families.parallel import check_not_parallel
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
    CogView4Family,
    FluxFamily,
    Flux2Family,
    HunyuanDiTFamily,
    Lumina2Family,
    PixArtFamily,
    QwenImageFamily,
    SanaFamily,
    StableDiffusion3Family,
    ZImageFamily,
)
KNOWN = {name: family for family in TRANSFORMERS for name in family.denoisers}
INSTEAD = (
    "Use a text-to-image, image-to-image, inpainting or ControlNet pipeline of Stable Diffusion 1.x, 2.x, XL or 3, "
    "FLUX.1 or 2, PixArt, Qwen-Image, Z-Image, Sana, Chroma, AuraFlow, Lumina 2, CogView 4 or "
    "HunyuanDiT, as StableDiffusionPipeline"
)


def family_of(pipe: Any) -> Family:
    """The family of a diffusers pipeline. Raises ValueError for one that cannot be controlled."""
    pipe = stock_like(pipe)
    transformer, unet = getattr(pipe, "transformer", None), getattr(pipe, "unet", None)
    denoiser = original(unet if transformer is None else transformer)
    name = type(pipe).__name__
    if isinstance(denoiser, nn.Module):
        check_no_cache(denoiser, name)
        check_not_parallel(denoiser, name)
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
    for stock in stock_classes(pipe):
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
    gated = has_gates(pipe.unet) and not hasattr(pipe, "tokenizer_2")
    if not gated and not tells_of_guidance(pipe):
        raise ValueError(
            f"{name} cannot be controlled: it has no property do_classifier_free_guidance, which says whether "
            f"the denoiser's batch holds unconditional rows. {INSTEAD}"
        )
    if gated:
        return GatedUNetFamily(pipe)
    return XLFamily(pipe) if hasattr(pipe, "tokenizer_2") else UNetFamily(pipe)


def grounded_family(pipe: Any) -> GroundedUNetFamily:
    """The family of a pipeline whose UNet is to be told of boxes. Raises ValueError for one without gates."""
    family_of(pipe)
    name, kind = type(pipe).__name__, getattr(_config(pipe), "attention_type", None)
    if kind != "gated" or hasattr(pipe, "tokenizer_2"):
        found = "gates for phrases with pictures" if has_gates(getattr(pipe, "unet", None)) else "no gates"
        raise ValueError(
            f"grounding: the denoiser of this {name} has {found}, so it cannot be told of boxes. Load a GLIGEN "
            "checkpoint for text and boxes (as masterful/gligen-1-4-generation-text-box), or use the layout with a "
            "method: attention-refocusing, boxdiff or layout-guidance"
        )
    if getattr(pipe, "tokenizer", None) is None or getattr(pipe, "text_encoder", None) is None:
        raise ValueError(f"grounding: this {name} has no tokenizer and text encoder, which the boxes' phrases need")
    return GroundedUNetFamily(pipe)


def _config(pipe: Any) -> Any:
    return getattr(getattr(pipe, "unet", None), "config", None)


def family_of_checkpoint(index: Mapping[str, Any], unet: Mapping[str, Any] | None = None) -> type[Family]:
    """The family of a checkpoint by its model_index.json and its UNet's configuration, with gates in grounded runs.

    Raises ValueError if there is none.
    """
    for component in ("transformer", "unet"):
        class_name = (index.get(component) or (None, None))[1]
        if class_name in KNOWN:
            return KNOWN[class_name]
        if class_name == "UNet2DConditionModel":
            if "tokenizer_2" in index:
                return XLFamily
            return GroundedUNetFamily if (unet or {}).get("attention_type") == "gated" else UNetFamily
    raise ValueError(f"a {index.get('_class_name')} has no denoiser that can be controlled. {INSTEAD}")


def has_transformer_family(stock: type | None) -> bool:
    """Whether a diffusers pipeline class is made around a transformer that has a family."""
    parameters = inspect.signature(stock.__init__).parameters if stock is not None else {}
    declared = parameters["transformer"].annotation if "transformer" in parameters else None
    return getattr(declared, "__name__", declared) in KNOWN
