"""FLUX.2 (dev, Klein): packed latents, joint then single blocks, text keys of a chat with Mistral or Qwen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers.pipelines.flux2.pipeline_flux2 import format_input

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.packed import PackedFamily
from attncontrol.prompt.text import TextEncoder, chat, user_turn


class Flux2Family(PackedFamily):
    """A pipeline around a `Flux2Transformer2DModel`; tokens of reference pictures lie behind the image's."""

    denoisers = ("Flux2Transformer2DModel",)
    refused: ClassVar[Mapping[str, str]] = {
        "Flux2KleinKVPipeline": "it keeps keys and values of its reference pictures from step to step, and guided "
        "passes would change them. Use Flux2KleinPipeline"
    }
    stacks = (
        ("transformer_blocks", "joint", "attn", (0, 1)),
        ("single_transformer_blocks", "single", "attn", (0, 0)),
    )
    defaults = TRANSFORMER_SETTINGS
    longest_text = 512

    @property
    def tokenizer(self) -> Any:
        """Mistral's with the system message, Qwen's for Klein; the whole chat is text keys, padding included."""
        processor = self.pipe.tokenizer
        if processor is None:
            return None
        system = getattr(self.pipe, "system_message", None)

        def with_system(prompt: str) -> str:
            return processor.apply_chat_template(format_input([prompt], system)[0], tokenize=False)

        tokenizer = getattr(processor, "tokenizer", processor)
        encoder = TextEncoder(
            tokenizer,
            self.longest_text,
            render=user_turn(processor, enable_thinking=False) if system is None else chat(with_system),
            fills_left=tokenizer.padding_side == "left",
            special_tokens=system is None,
        )
        return reader(encoder)

    @property
    def plain_calls(self) -> tuple[int, int]:
        """One where guidance is distilled (dev), two where the negative prompt has its own (Klein)."""
        return (1 if self.denoiser.config.guidance_embeds else 2), 1

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """With position ids and the scale of distilled guidance."""
        call = super().example_call(images, grid, text)
        for ids, states in (("img_ids", "hidden_states"), ("txt_ids", "encoder_hidden_states")):
            call[ids] = self.empty(*call[states].shape[:2], 4)
        return {**call, "guidance": self.empty(images)} if self.denoiser.config.guidance_embeds else call

    def grid(self, call: Call) -> Size:
        """Height and width in tokens, from the position ids of the picture itself (their first entry is 0)."""
        ids = call["img_ids"][0]
        last = ids[ids[:, 0] == 0].amax(0)
        return int(last[1]) + 1, int(last[2]) + 1

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """Text first, then the image; text filled on the left is counted from its end."""
        image, text = super().part(call, row)
        reads = self.tokenizer
        fills_left = reads is not None and reads.encoders[0].fills_left
        return image, slice(text.stop - self.longest_text if fills_left else 0, text.stop)
