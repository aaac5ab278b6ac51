"""Chroma: FLUX.1's blocks and latents without pooled text, T5 text keys behind a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attncontrol.attention.layers import Layer, Size
from attncontrol.families.base import Call, reader
from attncontrol.families.flux import FluxFamily
from attncontrol.prompt.text import TextEncoder


class ChromaFamily(FluxFamily):
    """A pipeline around a `ChromaTransformer2DModel`.

    Its mask of 0 and 1 is added to the scores, as the model was trained; maps are made with it.
    """

    denoisers = ("ChromaTransformer2DModel",)
    references = frozenset()
    plain_calls = (2, 1)

    @property
    def tokenizer(self) -> Any:
        """T5's."""
        return reader(TextEncoder(self.pipe.tokenizer, self.longest_text))

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """As FLUX.1's, with the mask over text and image."""
        call = super().example_call(images, grid, text)
        return {**call, "attention_mask": self.empty(images, len(call["txt_ids"]) + len(call["img_ids"]))}

    def check_checkpointing(self, layers: Sequence[Layer]) -> None:
        """Raises ValueError for single blocks: diffusers runs them without the mask when it checkpoints them."""
        if any(layer.place == "single" for layer in layers):
            raise ValueError(
                'memory="low" computes something else in Chroma\'s single blocks, where diffusers leaves the mask of '
                'the text out: take joint layers only, as in layers="joint", or memory="fast"'
            )
