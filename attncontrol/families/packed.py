"""What transformers with packed latents share: tokens of the picture first, those of reference pictures behind."""

from __future__ import annotations

from torch import Tensor

from attncontrol.families.base import BlockFamily, Call


class PackedFamily(BlockFamily):
    """A transformer whose latents come as a sequence of tokens, after the text's in every attention.

    True classifier-free guidance is a second call, so a call holds each image once.
    """

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
