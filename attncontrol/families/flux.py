"""FLUX.1 (dev, schnell, Kontext, Fill, Control, Krea): packed latents, joint then single blocks, T5 text keys."""

from __future__ import annotations

from typing import Any

from attncontrol.attention.layers import Size
from attncontrol.families.base import FOCUS_METHODS, TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.packed import PackedFamily
from attncontrol.prompt.text import TextEncoder


class FluxFamily(PackedFamily):
    """A pipeline around a `FluxTransformer2DModel`; Kontext has its reference pictures' tokens behind the image's."""

    denoisers = ("FluxTransformer2DModel",)
    shared = frozenset({"img_ids", "txt_ids"})
    stacks = (
        ("transformer_blocks", "joint", "attn", (10 / 19, 18 / 19)),
        ("single_transformer_blocks", "single", "attn", (0, 0)),
    )
    defaults = TRANSFORMER_SETTINGS
    longest_text = 512
    plain_calls = (1, 1)
    references = FOCUS_METHODS

    @property
    def tokenizer(self) -> Any:
        """T5's: CLIP's text is pooled and has no keys."""
        return reader(TextEncoder(self.pipe.tokenizer_2, self.longest_text))

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """With position ids, pooled text and the scale of distilled guidance, where the model takes them."""
        call, config = super().example_call(images, grid, text), self.denoiser.config
        for ids, states in (("img_ids", "hidden_states"), ("txt_ids", "encoder_hidden_states")):
            call[ids] = self.empty(call[states].shape[1], 3)
        if width := config.get("pooled_projection_dim"):
            call["pooled_projections"] = self.empty(images, width)
        if config.get("guidance_embeds"):
            call["guidance"] = self.empty(images)
        return call

    def grid(self, call: Call) -> Size:
        """Height and width in tokens, from the position ids of the picture itself (their first entry is 0)."""
        ids = call["img_ids"]
        last = ids[ids[:, 0] == 0].amax(0)
        return int(last[1]) + 1, int(last[2]) + 1

    def channels(self, call: Call) -> int:
        """The output's: the input of Fill and Control has more."""
        config = self.denoiser.config
        return config.out_channels or config.in_channels
