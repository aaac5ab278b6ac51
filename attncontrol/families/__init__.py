"""Model families: the only files that know how a kind of denoiser is built."""

from __future__ import annotations

from typing import Any

from attncontrol.compiled import uncompiled
from attncontrol.families.unet import UNetFamily
from attncontrol.families.xl import XLFamily


def family_of(pipe: Any) -> UNetFamily:
    """The family of a diffusers pipeline. Raises ValueError for one that cannot be controlled."""
    denoiser = uncompiled(getattr(pipe, "unet", None))
    name = type(pipe).__name__
    if type(denoiser).__name__ != "UNet2DConditionModel":
        found = type(denoiser).__name__ if denoiser is not None else "no UNet"
        raise ValueError(
            f"{name} cannot be controlled: it has {found}, and attncontrol needs a pipeline around a "
            "UNet2DConditionModel (Stable Diffusion 1.x, 2.x or XL)"
        )
    # asked of the class: before its first call a pipeline cannot answer the property itself
    if not hasattr(type(pipe), "do_classifier_free_guidance") and "do_classifier_free_guidance" not in vars(pipe):
        raise ValueError(
            f"{name} cannot be controlled: it has no property do_classifier_free_guidance, which says whether "
            "the denoiser's batch holds unconditional rows"
        )
    return XLFamily(pipe) if hasattr(pipe, "tokenizer_2") else UNetFamily(pipe)
