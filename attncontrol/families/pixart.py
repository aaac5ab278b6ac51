"""PixArt-alpha and PixArt-Sigma: cross-attention to T5 with a mask."""

from __future__ import annotations

from typing import Any

from attncontrol.families.base import TRANSFORMER_SETTINGS, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder, lowered


class PixArtFamily(PatchFamily):
    """A pipeline around a `PixArtTransformer2DModel`; the text is lower-cased and stripped before T5 reads it."""

    denoisers = ("PixArtTransformer2DModel",)
    lora_argument = None
    stacks = (("transformer_blocks", "block", "attn2", (5 / 28, 14 / 28)),)
    defaults = TRANSFORMER_SETTINGS

    @property
    def tokenizer(self) -> Any:
        """T5's."""
        return reader(TextEncoder(self.pipe.tokenizer, 300, render=lowered))
