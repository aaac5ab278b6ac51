"""Chroma: FLUX.1's blocks and latents without pooled text, T5 text keys behind a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attncontrol.attention.layers import Layer
from attncontrol.families.base import reader
from attncontrol.families.flux import FluxFamily
from attncontrol.prompt.text import TextEncoder


class ChromaFamily(FluxFamily):
    """A pipeline around a `ChromaTransformer2DModel`.

    Its mask of 0 and 1 is added to the scores, as the model was trained; maps are made with it.
    """

    denoisers = ("ChromaTransformer2DModel",)
    references = frozenset()

    @property
    def tokenizer(self) -> Any:
        """T5's."""
        return reader(TextEncoder(self.pipe.tokenizer, 512))

    def check_checkpointing(self, layers: Sequence[Layer]) -> None:
        """Raises ValueError for single blocks: diffusers runs them without the mask when it checkpoints them."""
        if any(layer.place == "single" for layer in layers):
            raise ValueError(
                'memory="low" computes something else in Chroma\'s single blocks, where diffusers leaves the mask of '
                'the text out: take joint layers only, as in layers="joint", or memory="fast"'
            )
