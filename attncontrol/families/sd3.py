"""Stable Diffusion 3 and 3.5: joint blocks over image and text, text keys of CLIP and T5 behind each other."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import JointAttnProcessor2_0

from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder

CLIP_KEYS = 77


class StableDiffusion3Family(PatchFamily):
    """A pipeline around an `SD3Transformer2DModel`. Skip-layer guidance's further call gets the same move."""

    denoisers = ("SD3Transformer2DModel",)
    stacks = (("transformer_blocks", "joint", "attn", (4 / 24, 12 / 24)),)
    text = (slice(1, CLIP_KEYS - 1), slice(CLIP_KEYS, -1))
    defaults = TRANSFORMER_SETTINGS
    references = frozenset({"focus"})
    plain_processor = JointAttnProcessor2_0

    @property
    def tokenizer(self) -> Any:
        """CLIP's at 0, T5's behind it."""
        return reader(
            TextEncoder(self.pipe.tokenizer, CLIP_KEYS), TextEncoder(self.pipe.tokenizer_3, 256, first=CLIP_KEYS)
        )

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """The image first, then the text."""
        height, width = self.grid(call)
        return slice(0, height * width), slice(height * width, None)
