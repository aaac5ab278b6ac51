"""PixArt-alpha and PixArt-Sigma: cross-attention to T5 with a mask."""

from __future__ import annotations

from typing import Any

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder, lowered


class PixArtFamily(PatchFamily):
    """A pipeline around a `PixArtTransformer2DModel`; the text is lower-cased and stripped before T5 reads it."""

    denoisers = ("PixArtTransformer2DModel",)
    lora_argument = None
    stacks = (("transformer_blocks", "block", "attn2", (5 / 28, 14 / 28)),)
    defaults = TRANSFORMER_SETTINGS
    longest_text = 300

    @property
    def tokenizer(self) -> Any:
        """T5's."""
        return reader(TextEncoder(self.pipe.tokenizer, self.longest_text, render=lowered))

    @property
    def text_channels(self) -> int:
        """T5's."""
        return self.denoiser.config.caption_channels

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """With the text's mask, and in PixArt-alpha the picture's size."""
        call = super().example_call(images, grid, text)
        call["encoder_attention_mask"] = self.empty(*call["encoder_hidden_states"].shape[:2])
        sizes = {"resolution": self.empty(images, 2), "aspect_ratio": self.empty(images, 1)}
        call["added_cond_kwargs"] = sizes if self.denoiser.use_additional_conditions else dict.fromkeys(sizes)
        return call
