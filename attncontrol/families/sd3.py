"""Stable Diffusion 3 and 3.5: joint blocks over image and text, text keys of CLIP and T5 behind each other."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import JointAttnProcessor2_0

from attncontrol.attention.layers import Size
from attncontrol.families.base import FOCUS_METHODS, TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder

CLIP_KEYS = 77


class StableDiffusion3Family(PatchFamily):
    """A pipeline around an `SD3Transformer2DModel`. Skip-layer guidance's further call gets the same move."""

    denoisers = ("SD3Transformer2DModel",)
    stacks = (("transformer_blocks", "joint", "attn", (4 / 24, 12 / 24)),)
    text = (slice(1, CLIP_KEYS - 1), slice(CLIP_KEYS, -1))
    defaults = TRANSFORMER_SETTINGS
    longest_text = CLIP_KEYS + 256
    references = FOCUS_METHODS
    plain_processor = JointAttnProcessor2_0

    @property
    def tokenizer(self) -> Any:
        """CLIP's at 0, T5's behind it."""
        t5 = TextEncoder(self.pipe.tokenizer_3, self.longest_text - CLIP_KEYS, first=CLIP_KEYS)
        return reader(TextEncoder(self.pipe.tokenizer, CLIP_KEYS), t5)

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """With CLIP's pooled text."""
        call = super().example_call(images, grid, text)
        return {**call, "pooled_projections": self.empty(images, self.denoiser.config.pooled_projection_dim)}

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """The image first, then the text."""
        height, width = self.grid(call)
        return slice(0, height * width), slice(height * width, None)
