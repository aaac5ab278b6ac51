"""Lumina 2: single blocks over the text of Gemma, as long as each row's is, and the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder, behind


class Lumina2Family(PatchFamily):
    """A pipeline around a `Lumina2Transformer2DModel`; the negative prompt has a call of its own."""

    denoisers = ("Lumina2Transformer2DModel",)
    lora_argument = "attention_kwargs"
    text = (slice(1, None),)  # it has no end token
    stacks = (("layers", "single", "attn", (4 / 26, 13 / 26)),)
    defaults = TRANSFORMER_SETTINGS
    longest_text = 256
    plain_calls = (2, 1)

    @property
    def tokenizer(self) -> Any:
        """Gemma's, with the pipeline's system prompt in front."""
        if self.pipe.tokenizer is None:
            return None
        beginning = f"{self.pipe.system_prompt} <Prompt Start> "
        return reader(TextEncoder(self.pipe.tokenizer, self.longest_text, render=behind(beginning)))

    @property
    def text_channels(self) -> int:
        """Gemma's."""
        return self.denoiser.config.cap_feat_dim

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """With the text's mask, which the model asks for its numbers."""
        call = super().example_call(images, grid, text)
        mask = torch.ones(call["encoder_hidden_states"].shape[:2], dtype=torch.bool, device="cpu")
        return {**call, "encoder_attention_mask": mask}

    def check_encoding(self, prompts: Sequence[str], arguments: Mapping[str, Any]) -> None:
        """Raises ValueError for another system prompt, too."""
        super().check_encoding(prompts, arguments)
        if arguments.get("system_prompt") not in (None, self.pipe.system_prompt):
            raise ValueError("system_prompt must be left out under control: words are sought behind its default")

    def batch_layout(self, call: Call, prompts: int) -> tuple[int, int]:
        """One copy."""
        return 1, 0

    def timestep(self, call: Call) -> Tensor:
        """The call's 0 (noise) to 1 on the scheduler's scale."""
        return 1000 - super().timestep(call) * 1000

    def at_timestep(self, call: Call, timestep: float) -> Call:
        """Likewise 0 to 1."""
        return {**call, "timestep": torch.full_like(call["timestep"], 1 - timestep / 1000)}

    def prediction(self, output: Tensor) -> Tensor:
        """Turned round: the model's velocity runs from noise to picture."""
        return -output

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """The row's text without padding, then the image."""
        text = int(call["encoder_attention_mask"][row].sum())
        height, width = self.grid(call)
        return slice(text, text + height * width), slice(0, text)
