"""What transformers share that take latents as a picture [rows, channels, height, width] and cut it into patches."""

from __future__ import annotations

from attncontrol.attention.layers import Size
from attncontrol.families.base import BlockFamily, Call


class PatchFamily(BlockFamily):
    """A transformer with one image query for every patch of the latents, row by row."""

    @property
    def grid_latents(self) -> int:
        """A patch."""
        return self.denoiser.config.patch_size

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """Latents, text and the noise level."""
        height, width = (side * self.grid_latents for side in grid)
        config = self.denoiser.config
        return {
            "hidden_states": self.empty(images, config.in_channels, height, width),
            "encoder_hidden_states": self.empty(images, text or self.longest_text, self.text_channels),
            "timestep": self.empty(images),
        }

    @property
    def text_channels(self) -> int:
        """Channels of the text's states."""
        return self.denoiser.config.joint_attention_dim

    def grid(self, call: Call) -> Size:
        """Height and width in patches."""
        height, width = self.latents(call).shape[-2:]
        return height // self.grid_latents, width // self.grid_latents
