"""What transformers share that take latents as a picture [rows, channels, height, width] and cut it into patches."""

from __future__ import annotations

from attncontrol.attention.layers import Size
from attncontrol.families.base import BlockFamily, Call


class PatchFamily(BlockFamily):
    """A transformer with one image query for every patch of the latents, row by row."""

    def grid(self, call: Call) -> Size:
        """Height and width in patches."""
        patch = self.denoiser.config.patch_size
        height, width = self.latents(call).shape[-2:]
        return height // patch, width // patch
