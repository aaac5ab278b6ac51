"""Qwen-Image and its editing form: packed latents, joint blocks, text of a chat template of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.packed import PackedFamily
from attncontrol.prompt.text import TextEncoder, template


class QwenImageFamily(PackedFamily):
    """A pipeline around a `QwenImageTransformer2DModel`."""

    denoisers = ("QwenImageTransformer2DModel",)
    lora_argument = "attention_kwargs"
    stacks = (("transformer_blocks", "joint", "attn", (10 / 60, 30 / 60)),)
    defaults = TRANSFORMER_SETTINGS

    @property
    def tokenizer(self) -> Any:
        """Qwen's, with the pipeline's template; the states of the template's beginning are dropped."""
        pipe = self.pipe
        drop, render = pipe.prompt_template_encode_start_idx, template(pipe.prompt_template_encode)
        return reader(TextEncoder(pipe.tokenizer, pipe.tokenizer_max_length, drop=drop, render=render))

    def grid(self, call: Call) -> Size:
        """Height and width in tokens of the picture itself; references come after it."""
        shapes = call["img_shapes"][0]
        _, height, width = shapes[0] if isinstance(shapes, list) else shapes
        return height, width

    def rows(self, call: Call, batch: int, rows: Sequence[int]) -> Call:
        """The arguments for some rows; the list of shapes has one entry a row."""
        chosen = super().rows(call, batch, rows)
        return {**chosen, "img_shapes": [call["img_shapes"][row] for row in rows]}
