"""FLUX.1 (dev, schnell, Kontext, Fill, Control, Krea): packed latents, joint then single blocks, T5 text keys."""

from __future__ import annotations

from typing import Any

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
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
    references = frozenset({"focus"})

    @property
    def tokenizer(self) -> Any:
        """T5's: CLIP's text is pooled and has no keys."""
        return reader(TextEncoder(self.pipe.tokenizer_2, 512))

    def grid(self, call: Call) -> Size:
        """Height and width in tokens, from the position ids of the picture itself (their first entry is 0)."""
        ids = call["img_ids"]
        last = ids[ids[:, 0] == 0].amax(0)
        return int(last[1]) + 1, int(last[2]) + 1

    def channels(self, call: Call) -> int:
        """The output's: the input of Fill and Control has more."""
        config = self.denoiser.config
        return config.out_channels or config.in_channels
