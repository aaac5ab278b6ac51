"""Tiny random modular pipelines of the real diffusers blocks, around the components of the tiny stock ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers

from tests import tiny, tiny_transformers


def modular(blocks: Any, components: dict[str, Any], **more: Any) -> Any:
    """A pipeline of some blocks, without the one that decodes, around those of the components that they know."""
    blocks.sub_blocks.pop("decode", None)
    pipe = blocks.init_pipeline()
    pipe.update_components(**{k: v for k, v in {**components, **more}.items() if k in pipe.component_names})
    for block in every_block(pipe._blocks):
        if hasattr(block, "set_progress_bar_config"):
            block.set_progress_bar_config(disable=True)
    return pipe


def every_block(block: Any) -> list[Any]:
    return [block, *(inner for part in block.sub_blocks.values() for inner in every_block(part))]


def of(blocks: str, stock: Callable[[], Any]) -> Callable[..., Any]:
    """Builds the modular pipeline of some blocks with the components of a tiny stock one."""
    return lambda **more: modular(getattr(diffusers, blocks)(), stock().components, **more)


MODULAR = {
    "SD XL": of("StableDiffusionXLAutoBlocks", tiny.stable_diffusion_xl),
    "SD 3": of("StableDiffusion3AutoBlocks", tiny_transformers.sd3),
    "FLUX.1": of("FluxAutoBlocks", tiny_transformers.flux),
    "FLUX.2": of("Flux2AutoBlocks", tiny_transformers.flux2),
    "FLUX.2 Klein": of("Flux2KleinAutoBlocks", tiny_transformers.klein),
    "FLUX.2 Klein, base": of("Flux2KleinBaseAutoBlocks", tiny_transformers.klein),
    "Qwen-Image": of("QwenImageAutoBlocks", tiny_transformers.qwen_image),
    "Z-Image": of("ZImageAutoBlocks", tiny_transformers.z_image),
}
FEW_STATES = {"text_encoder_out_layers": (0, 1, 2), "max_sequence_length": 96}
CALLS: dict[str, dict[str, Any]] = {
    "SD 3": {"negative_prompt": "a photo of a big dog and two frogs"},
    "FLUX.2": FEW_STATES,
    "FLUX.2 Klein": FEW_STATES,
    "FLUX.2 Klein, base": FEW_STATES,
}
"""What the tiny pipelines must be called with."""
