"""FLUX.1 (dev, schnell, Kontext, Fill, Control, Krea): packed latents, joint then single blocks, T5 text keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, BlockFamily, Call, reader
from attncontrol.prompt.text import TextEncoder


class FluxFamily(BlockFamily):
    """A pipeline around a `FluxTransformer2DModel`.

    The sequence of every attention is text, image, and for Kontext the reference pictures' tokens behind it. True
    classifier-free guidance is a second call, so a call holds each image once.
    """

    denoisers = ("FluxTransformer2DModel",)
    shared = frozenset({"img_ids", "txt_ids"})
    stacks = (
        ("transformer_blocks", "joint", "attn", (10 / 19, 18 / 19)),
        ("single_transformer_blocks", "single", "attn", (0, 0)),
    )

    defaults = TRANSFORMER_SETTINGS

    @property
    def tokenizer(self) -> Any:
        """T5's: CLIP's text is pooled and has no keys."""
        return reader(TextEncoder(self.pipe.tokenizer_2, 512))

    def batch_layout(self, call: Call, prompts: int) -> tuple[int, int]:
        """One copy: the negative prompt has a call of its own."""
        return 1, 0

    def grid(self, call: Call) -> Size:
        """Height and width in tokens, from the position ids of the picture itself (their first entry is 0)."""
        ids = call["img_ids"]
        last = ids[ids[:, 0] == 0].amax(0)
        return int(last[1]) + 1, int(last[2]) + 1

    def latents(self, call: Call) -> Tensor:
        """The first tokens and channels: references lie behind in the sequence, masks and controls in the channels."""
        height, width = self.grid(call)
        return call["hidden_states"][:, : height * width, : self._channels]

    def with_latents(self, call: Call, latents: Tensor) -> Call:
        """The call at other latents; references and further channels stay."""
        states = call["hidden_states"].clone()
        states[:, : latents.shape[1], : latents.shape[2]] = latents
        return {**call, "hidden_states": states}

    @property
    def _channels(self) -> int:
        config = self.denoiser.config
        return config.out_channels or config.in_channels

    def timestep(self, call: Call) -> Tensor:
        """The call's 0 to 1 on the scheduler's scale."""
        return call["timestep"].flatten()[0] * 1000

    def part(self, call: Call) -> tuple[slice, slice]:
        """Text first, then the image."""
        text = call["encoder_hidden_states"].shape[1]
        height, width = self.grid(call)
        return slice(text, text + height * width), slice(0, text)
