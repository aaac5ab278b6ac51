"""HunyuanDiT: cross-attention to the text of BERT and, behind it, of T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.models.attention_processor import HunyuanAttnProcessor2_0

from attncontrol.families.base import TRANSFORMER_SETTINGS, reader
from attncontrol.families.patches import PatchFamily
from attncontrol.prompt.text import TextEncoder

BERT_KEYS = 77


class HunyuanDiTFamily(PatchFamily):
    """A pipeline around a `HunyuanDiT2DModel`, whose learned padding is attended to."""

    denoisers = ("HunyuanDiT2DModel",)
    shared = frozenset({"image_rotary_emb"})
    lora_argument = None
    text = (slice(1, BERT_KEYS - 1), slice(BERT_KEYS, -1))
    stacks = (("blocks", "block", "attn2", (5 / 28, 14 / 28)),)
    defaults = TRANSFORMER_SETTINGS
    plain_processor = HunyuanAttnProcessor2_0

    @property
    def tokenizer(self) -> Any:
        """BERT's at 0, T5's behind it."""
        return reader(
            TextEncoder(self.pipe.tokenizer, BERT_KEYS), TextEncoder(self.pipe.tokenizer_2, 256, first=BERT_KEYS)
        )

    def check_encoding(self, prompts: Sequence[str], arguments: Mapping[str, Any]) -> None:
        """Nothing to refuse: the pipeline encodes one prompt twice, at lengths of its own."""
        return
