"""Tiny random Stable Diffusions whose UNets have GLIGEN's gates, open."""

from __future__ import annotations

import diffusers
import torch

from attncontrol import AttentionControlPipeline
from tests import tiny

PROMPT = "a cat and a frog"
LAYOUT = {"cat": [0.05, 0.3, 0.45, 0.9], "frog": [0.55, 0.3, 0.95, 0.9]}
SIZE = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent"}


def unet(in_channels: int = 4, **overrides) -> diffusers.UNet2DConditionModel:
    """Gates are closed in a new UNet; these add about as much as the rest of a block."""
    made = tiny.unet(in_channels, **{"attention_type": "gated", **overrides})
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(("alpha_attn", "alpha_dense")):
                parameter.fill_(0.7)
            elif "null_" in name:
                parameter.normal_()
    return made


def gligen(**overrides) -> diffusers.StableDiffusionGLIGENPipeline:
    """The stock pipeline."""
    parts = tiny.components(**{"unet": unet(), **overrides})
    pipe = diffusers.StableDiffusionGLIGENPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def controlled(**overrides) -> AttentionControlPipeline:
    """The controlled form around the same components."""
    pipe = AttentionControlPipeline.from_pipe(gligen(**overrides))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt=PROMPT, seed=0, **arguments) -> torch.Tensor:
    """Latents of a short run; a list of seeds for a batch."""
    seeds = seed if isinstance(seed, list) else [seed]
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    return pipe(prompt, generator=generators, **{**SIZE, **arguments}).images
