"""CogView 4: single blocks over the text of GLM, filled on the left, and the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder


class CogView4Family(PatchFamily):
    """A pipeline around a `CogView4Transformer2DModel`; the negative prompt has a call of its own."""

    denoisers = ("CogView4Transformer2DModel",)
    lora_argument = "attention_kwargs"
    text = (slice(0, None),)
    stacks = (("transformer_blocks", "single", "attn1", (5 / 30, 15 / 30)),)
    defaults = TRANSFORMER_SETTINGS
    longest_text = 1024  # with a place for the end token that its text has not
    plain_calls = (2, 1)

    @property
    def tokenizer(self) -> Any:
        """GLM's; the text is counted from its end."""
        return reader(TextEncoder(self.pipe.tokenizer, self.longest_text, fills_left=True))

    @property
    def text_channels(self) -> int:
        """GLM's."""
        return self.denoiser.config.text_embed_dim

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """With the picture's sizes."""
        sizes = {name: self.empty(images, 2) for name in ("original_size", "target_size", "crop_coords")}
        return {**super().example_call(images, grid, text), **sizes}

    def latents(self, call: Call) -> Tensor:
        """The first channels: those of a control picture lie behind."""
        return call["hidden_states"][:, : self.denoiser.config.out_channels]

    def with_latents(self, call: Call, latents: Tensor) -> Call:
        """The call at other latents; further channels stay."""
        further = call["hidden_states"][:, latents.shape[1] :]
        return {**call, "hidden_states": torch.cat([latents, further], dim=1)}

    def batch_layout(self, call: Call, prompts: int) -> tuple[int, int]:
        """One copy."""
        return 1, 0

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """Text first, then the image."""
        text = call["encoder_hidden_states"].shape[1]
        height, width = self.grid(call)
        return slice(text, text + height * width), slice(text - self.longest_text + 1, text)
