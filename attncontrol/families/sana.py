"""Sana: cross-attention to Gemma with a mask; an instruction stands in front of the prompt."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from diffusers.models.attention_processor import SanaLinearAttnProcessor2_0
from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder, behind, lowered


class SanaFamily(PatchFamily):
    """A pipeline around a `SanaTransformer2DModel`. Of the text, the first state and the last 299 are keys."""

    denoisers = ("SanaTransformer2DModel",)
    refused: ClassVar[Mapping[str, str]] = {
        name: "its scheduler and its input have different scales. Use SanaPipeline"
        for name in ("SanaSprintPipeline", "SanaSprintImg2ImgPipeline")
    }
    lora_argument = "attention_kwargs"
    size_multiple = 32
    stacks = (("transformer_blocks", "block", "attn2", (3 / 20, 10 / 20)),)
    defaults = TRANSFORMER_SETTINGS
    longest_text = 300
    plain_processor = SanaLinearAttnProcessor2_0

    @property
    def tokenizer(self) -> Any:
        """Gemma's, with the pipeline's instruction, most of whose states are dropped."""
        tokenizer = self.pipe.tokenizer
        if tokenizer is None:
            return None
        instruction = "\n".join(self._instruction())
        drop = len(tokenizer.encode(instruction)) - 2
        return reader(TextEncoder(tokenizer, self.longest_text, drop=drop, render=behind(instruction, lowered)))

    @classmethod
    def latent_pixels(cls, vae: Mapping[str, Any]) -> int:
        """Of an autoencoder whose halves differ."""
        return 2 ** (len(vae["encoder_block_out_channels"]) - 1)

    @property
    def text_channels(self) -> int:
        """Gemma's."""
        return self.denoiser.config.caption_channels

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """With the text's mask."""
        call = super().example_call(images, grid, text)
        return {**call, "encoder_attention_mask": self.empty(*call["encoder_hidden_states"].shape[:2])}

    def _instruction(self) -> list[str]:
        """The lines that the stock pipeline puts in front of a prompt."""
        for cls in type(self.pipe).__mro__:
            parameters = inspect.signature(cls.__call__).parameters if "__call__" in vars(cls) else {}
            if "complex_human_instruction" in parameters:
                return parameters["complex_human_instruction"].default or []
        return []

    def check_encoding(self, prompts: Sequence[str], arguments: Mapping[str, Any]) -> None:
        """Raises ValueError for another instruction, too."""
        super().check_encoding(prompts, arguments)
        if (arguments.get("complex_human_instruction") or []) != self._instruction():
            raise ValueError("complex_human_instruction must be left out under control: words are sought behind it")

    def timestep(self, call: Call) -> Tensor:
        """The noise level without the model's scale."""
        return super().timestep(call) / self.denoiser.config.timestep_scale
