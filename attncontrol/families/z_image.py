"""Z-Image (Turbo, Base): single blocks over the image and the text of a chat with Qwen, both padded to 32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, BlockFamily, Call, reader
from attncontrol.prompt.text import TextEncoder, user_turn

PADDED_TO = 32
PATCH = 2


class ZImageFamily(BlockFamily):
    """A pipeline around a `ZImageTransformer2DModel`: latents and text are lists with one entry a row.

    The conditional copy comes first, and the other one may be left out from some step on.
    """

    denoisers = ("ZImageTransformer2DModel",)
    refused: ClassVar[Mapping[str, str]] = {
        "ZImageOmniPipeline": "its sequences are made of pictures and text in turn. Use ZImagePipeline"
    }
    latents_argument = "x"
    stacks = (("layers", "single", "attention", (5 / 30, 15 / 30)),)
    defaults = TRANSFORMER_SETTINGS
    longest_text = 512
    grid_latents = PATCH
    usual_grid = (64, 64)

    @property
    def tokenizer(self) -> Any:
        """Qwen's, with its chat template."""
        tokenizer = self.pipe.tokenizer
        if tokenizer is None:
            return None
        render = user_turn(tokenizer, enable_thinking=True)
        return reader(TextEncoder(tokenizer, self.longest_text, render=render))

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """Lists of latents and of text, and the noise level."""
        config, sides = self.denoiser.config, [side * PATCH for side in grid]
        return {
            "x": [self.empty(config.in_channels, 1, *sides) for _ in range(images)],
            "t": self.empty(images),
            "cap_feats": [self.empty(text or self.longest_text, config.cap_feat_dim) for _ in range(images)],
        }

    def latents(self, call: Call) -> Tensor:
        """All rows in one tensor, without their axis of frames."""
        return torch.stack(call["x"]).squeeze(2)

    def with_latents(self, call: Call, latents: Tensor) -> Call:
        """The call at other latents, as a list."""
        return {**call, "x": list(latents.unsqueeze(2).unbind(0))}

    def batch_layout(self, call: Call, prompts: int) -> tuple[int, int]:
        """Two copies where the call's halves are equal, the conditional one first."""
        copies, _ = super().batch_layout(call, prompts)
        return copies, 0

    def rows(self, call: Call, batch: int, rows: Sequence[int]) -> Call:
        """The arguments for some rows; those in lists are chosen by entry."""
        lists = {name: [call[name][row].clone() for row in rows] for name in ("x", "cap_feats")}
        return {**super().rows(call, batch, rows), **lists}

    def timestep(self, call: Call) -> Tensor:
        """The call's 0 (noise) to 1 on the scheduler's scale."""
        return 1000 - call["t"].flatten()[0] * 1000

    def grid(self, call: Call) -> Size:
        """Height and width in patches."""
        patch = call.get("patch_size", PATCH)
        height, width = call["x"][0].shape[-2:]
        return height // patch, width // patch

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """The image and its padding, then the text and its."""
        height, width = self.grid(call)
        pixels = height * width
        return slice(0, pixels), slice(pixels + -pixels % PADDED_TO, None)
