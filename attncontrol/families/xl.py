"""Stable Diffusion XL: two text encoders over the same positions, and many more attention layers to choose from."""

from __future__ import annotations

from typing import Any

from attncontrol.families.unet import UNetFamily


class XLFamily(UNetFamily):
    """A pipeline around a Stable Diffusion XL UNet: base, refiner (second text encoder only), turbo, lightning.

    Both encoders read the prompt and their states lie side by side at every position, so a token has one index as
    long as both tokenizers place it alike. Half of a key and more comes from the OpenCLIP encoder, whose end of text
    and padding draw attention away from the words, so these stay out of softmaxes over tokens, as with 2.x.

    By default the methods look at the down blocks only. At 1024 px the UNet has 60 cross-attention layers of 32x32:
    20 in the last down block, 10 in the middle, 30 in the first up block. Stopping after the down block takes 31% of
    a forward's arithmetic, after the middle 42%, after the up block 77%, and memory for the backward pass in the
    same proportion. The down block is also the one found to decide what stands where (InstantStyle, arXiv
    2404.02733, section 3). No comparison on real weights was made: the choice is by cost, and a method's `layers`
    is there to change it.
    """

    default_places = ("down",)

    @property
    def tokenizers(self) -> list[Any]:
        """Those of both text encoders; a refiner has the second one only."""
        return [t for t in (self.pipe.tokenizer, self.pipe.tokenizer_2) if t is not None]

    @property
    def drop_padding(self) -> bool:
        """Always, for the OpenCLIP encoder."""
        return True
