"""What transformers with packed latents share: tokens of the picture first, those of reference pictures behind."""

from __future__ import annotations

from torch import Tensor

from attncontrol.attention.layers import Size
from attncontrol.families.base import BlockFamily, Call


class PackedFamily(BlockFamily):
    """A transformer whose latents come as a sequence of tokens, after the text's in every attention.

    True classifier-free guidance is a second call, so a call holds each image once.
    """

    grid_latents = 2
    usual_grid = (64, 64)

    @property
    def plain_calls(self) -> tuple[int, int]:
        """Two: true classifier-free guidance."""
        return 2, 1

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """Tokens of the image and the text, and the noise level."""
        config = self.denoiser.config
        return {
            "hidden_states": self.empty(images, grid[0] * grid[1], config.in_channels),
            "encoder_hidden_states": self.empty(images, text or self.longest_text, config.joint_attention_dim),
            "timestep": self.empty(images),
        }

    def batch_layout(self, call: Call, prompts: int) -> tuple[int, int]:
        """One copy: the negative prompt has a call of its own."""
        return 1, 0

    def channels(self, call: Call) -> int:
        """How many of a token's channels are the noisy latents."""
        return call["hidden_states"].shape[2]

    def latents(self, call: Call) -> Tensor:
        """The first tokens and channels: references lie behind in the sequence, masks and controls in the channels."""
        height, width = self.grid(call)
        return call["hidden_states"][:, : height * width, : self.channels(call)]

    def with_latents(self, call: Call, latents: Tensor) -> Call:
        """The call at other latents; references and further channels stay."""
        states = call["hidden_states"].clone()
        states[:, : latents.shape[1], : latents.shape[2]] = latents
        return {**call, "hidden_states": states}

    def timestep(self, call: Call) -> Tensor:
        """The call's 0 to 1 on the scheduler's scale."""
        return call["timestep"].flatten()[0] * 1000

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """Text first, then the image."""
        text = call["encoder_hidden_states"].shape[1]
        height, width = self.grid(call)
        return slice(text, text + height * width), slice(0, text)
