"""HunyuanDiT: cross-attention to the text of BERT and, behind it, of T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.models.attention_processor import HunyuanAttnProcessor2_0

from attncontrol.attention.layers import Layer, Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder

BERT_KEYS, T5_KEYS = 77, 256


class HunyuanDiTFamily(PatchFamily):
    """A pipeline around a `HunyuanDiT2DModel`, whose learned padding is attended to."""

    denoisers = ("HunyuanDiT2DModel",)
    shared = frozenset({"image_rotary_emb"})
    lora_argument = None
    text = (slice(1, BERT_KEYS - 1), slice(BERT_KEYS, -1))
    stacks = (("blocks", "block", "attn2", (5 / 28, 14 / 28)),)
    defaults = TRANSFORMER_SETTINGS
    longest_text = BERT_KEYS + T5_KEYS
    plain_processor = HunyuanAttnProcessor2_0

    @property
    def tokenizer(self) -> Any:
        """BERT's at 0, T5's behind it."""
        t5 = TextEncoder(self.pipe.tokenizer_2, T5_KEYS, first=BERT_KEYS)
        return reader(TextEncoder(self.pipe.tokenizer, BERT_KEYS), t5)

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """Both texts at their full lengths with their masks, sizes, style and positions."""
        config, (height, width) = self.denoiser.config, grid
        rotary = self.empty(height * width, config.attention_head_dim)
        latents = self.empty(images, config.in_channels, height * config.patch_size, width * config.patch_size)
        return {
            "hidden_states": latents,
            "timestep": self.empty(images),
            "encoder_hidden_states": self.empty(images, BERT_KEYS, config.cross_attention_dim),
            "text_embedding_mask": self.empty(images, BERT_KEYS),
            "encoder_hidden_states_t5": self.empty(images, T5_KEYS, config.cross_attention_dim_t5),
            "text_embedding_mask_t5": self.empty(images, T5_KEYS),
            "image_meta_size": self.empty(images, 6),
            "style": self.empty(images).long(),
            "image_rotary_emb": (rotary, rotary),
        }

    def check_encoding(self, prompts: Sequence[str], arguments: Mapping[str, Any]) -> None:
        """Nothing to refuse: the pipeline encodes one prompt twice, at lengths of its own."""
        return

    def check_checkpointing(self, layers: Sequence[Layer]) -> None:
        """Raises ValueError: diffusers has no gradient checkpointing for it."""
        raise ValueError('memory="low" is not there for HunyuanDiT: diffusers cannot recompute its activations')
