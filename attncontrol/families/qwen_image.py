"""Qwen-Image and its editing form: packed latents, joint blocks, text of a chat template of any length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from attncontrol.attention.layers import Size
from attncontrol.families.base import TRANSFORMER_SETTINGS, Call, reader
from attncontrol.families.packed import PackedFamily
from attncontrol.prompt.text import TextEncoder, template


class QwenImageFamily(PackedFamily):
    """A pipeline around a `QwenImageTransformer2DModel`.

    The editing ones put as many states in front of the prompt as its pictures have, so its text is counted from the
    end.
    """

    denoisers = ("QwenImageTransformer2DModel",)
    refused: ClassVar[Mapping[str, str]] = {
        "QwenImageLayeredPipeline": "its latents are several pictures at once. Use QwenImagePipeline"
    }
    lora_argument = "attention_kwargs"
    stacks = (("transformer_blocks", "joint", "attn", (10 / 60, 30 / 60)),)
    defaults = TRANSFORMER_SETTINGS
    longest_text = 512

    @property
    def tokenizer(self) -> Any:
        """Qwen's, with the pipeline's template; the states of the template's beginning are dropped.

        Raises ValueError if the pipeline drops other states than those.
        """
        pipe = self.pipe
        if pipe.tokenizer is None:
            return None
        drop, beginning = pipe.prompt_template_encode_start_idx, pipe.prompt_template_encode.partition("{}")[0]
        found = len(pipe.tokenizer(beginning)["input_ids"])
        if found != drop and not self._edits:
            raise ValueError(
                f"the prompt's template begins with {found} tokens of this {type(pipe.tokenizer).__name__}, but "
                f"{type(pipe).__name__} drops {drop}: load the tokenizer of the checkpoint"
            )
        render = template(pipe.prompt_template_encode)
        length = pipe.tokenizer_max_length
        return reader(TextEncoder(pipe.tokenizer, length, drop=drop, render=render, fills_left=self._edits))

    @classmethod
    def latent_pixels(cls, vae: Mapping[str, Any]) -> int:
        """Of an autoencoder of films."""
        return 2 ** len(vae["temperal_downsample"])

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """With the shapes of the pictures."""
        return {**super().example_call(images, grid, text), "img_shapes": [[(1, *grid)]] * images}

    @property
    def _edits(self) -> bool:
        """Whether the text encoder sees pictures, too."""
        return hasattr(self.pipe, "processor")

    def part(self, call: Call, row: int) -> tuple[slice, slice]:
        """Text first, then the image; where pictures are part of the text it is counted from its end."""
        image, text = super().part(call, row)
        if not self._edits:
            return image, text
        mask = call.get("encoder_hidden_states_mask")
        end = text.stop if mask is None else int(mask[row].sum())
        return image, slice(end - self.pipe.tokenizer_max_length, end)

    def grid(self, call: Call) -> Size:
        """Height and width in tokens of the picture itself; references come after it."""
        shapes = call["img_shapes"][0]
        _, height, width = shapes[0] if isinstance(shapes, list) else shapes
        return height, width

    def rows(self, call: Call, batch: int, rows: Sequence[int]) -> Call:
        """The arguments for some rows; the list of shapes has one entry a row."""
        chosen = super().rows(call, batch, rows)
        return {**chosen, "img_shapes": [call["img_shapes"][row] for row in rows]}
