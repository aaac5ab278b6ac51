"""Qwen-Image and its editing form: packed latents, joint blocks, text of a chat template of any length."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, BlockFamily, Call, reader
from attncontrol.prompt.text import TextEncoder, template


class QwenImageFamily(BlockFamily):
    """A pipeline around a `QwenImageTransformer2DModel`; true classifier-free guidance is a second call."""

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

    def batch_layout(self, call: Call, prompts: int) -> tuple[int, int]:
        """One copy: the negative prompt has a call of its own."""
        return 1, 0

    def grid(self, call: Call) -> Size:
        """Height and width in tokens of the picture itself; references come after it."""
        shapes = call["img_shapes"][0]
        _, height, width = shapes[0] if isinstance(shapes, list) else shapes
        return height, width

    def latents(self, call: Call) -> Tensor:
        """The first tokens: references lie behind."""
        height, width = self.grid(call)
        return call["hidden_states"][:, : height * width]

    def with_latents(self, call: Call, latents: Tensor) -> Call:
        """The call at other latents; references stay."""
        states = call["hidden_states"].clone()
        states[:, : latents.shape[1]] = latents
        return {**call, "hidden_states": states}

    def rows(self, call: Call, batch: int, rows: Any) -> Call:
        """The arguments for some rows; the list of shapes has one entry a row."""
        chosen = super().rows(call, batch, rows)
        return {**chosen, "img_shapes": [call["img_shapes"][row] for row in rows]}

    def timestep(self, call: Call) -> Tensor:
        """The call's 0 to 1 on the scheduler's scale."""
        return call["timestep"].flatten()[0] * 1000

    def part(self, call: Call) -> tuple[slice, slice]:
        """Text first, then the image."""
        text = call["encoder_hidden_states"].shape[1]
        height, width = self.grid(call)
        return slice(text, text + height * width), slice(0, text)
