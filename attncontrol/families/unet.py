"""Stable Diffusion UNets: where their latents, text rows and attention layers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attncontrol.attention.capture import Capture
from attncontrol.attention.layers import UNET_PLACES, Layer, Place, Size
from attncontrol.families.base import Call, Family

BLOCKS: dict[str, Place] = {"down_blocks": "down", "mid_block": "mid", "up_blocks": "up"}


class UNetFamily(Family):
    """A pipeline around a `UNet2DConditionModel` (Stable Diffusion 1.x, 2.x)."""

    denoisers = ("UNet2DConditionModel",)
    component = "unet"
    latents_argument = "sample"
    lora_argument = "cross_attention_kwargs"
    text = (slice(1, -1),)
    size_multiple = 8
    default_places: tuple[Place, ...] = UNET_PLACES  # where methods look unless told otherwise

    @classmethod
    def weightless(cls, config: Mapping[str, Any], dtype: torch.dtype) -> Family:
        """As of every family, without an IP-Adapter that was loaded into the UNet."""
        if config.get("encoder_hid_dim_type") == "ip_image_proj":
            config = {**config, "encoder_hid_dim_type": None, "encoder_hid_dim": None}
        return super().weightless(config, dtype)

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizer of every text encoder, none if the pipeline was loaded without."""
        return [self.pipe.tokenizer] if self.pipe.tokenizer is not None else []

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that finds words."""
        return next(iter(self.tokenizers), None)

    @property
    def drop_padding(self) -> bool:
        """Whether end of text and padding distort a softmax over tokens: OpenCLIP text encoders (2.x)."""
        encoder = self.pipe.text_encoder
        return encoder is not None and encoder.config.hidden_act == "gelu"

    @property
    def text_length(self) -> int:
        """Positions of the text encoder, special tokens and padding included."""
        return self.tokenizer.model_max_length if self.tokenizer is not None else 77

    @property
    def latent_channels(self) -> int:
        """Channels of the latents; an inpainting UNet's input has others behind them."""
        vae = getattr(self.pipe, "vae", None)
        return vae.config.latent_channels if vae is not None else self.denoiser.config.out_channels

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """Arguments of a denoiser call with empty tensors, to count its cost. Raises ValueError for other UNets."""
        config = self.denoiser.config
        if not isinstance(config.cross_attention_dim, int):
            raise ValueError("a UNet with several kinds of text states is not one of Stable Diffusion")
        call = {
            "sample": self.empty(images, config.in_channels, *grid),
            "timestep": torch.ones((), device=self.denoiser.device),
            "encoder_hidden_states": self.empty(images, text or self.text_length, config.cross_attention_dim),
        }
        if config.addition_embed_type == "text_time":
            ids = 6  # how the width is shared between them and the text does not matter
            width = config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim
            call["added_cond_kwargs"] = {
                "text_embeds": self.empty(images, width),
                "time_ids": self.empty(images, ids),
            }
        return call

    def latents(self, call: Call) -> Tensor:
        """The first channels of the input: [rows, channels, height, width]."""
        return call["sample"][:, : self.latent_channels]

    def with_latents(self, call: Call, latents: Tensor) -> Call:
        """The call at other latents; further channels (inpainting) stay."""
        return {**call, "sample": torch.cat([latents, call["sample"][:, latents.shape[1] :]], dim=1)}

    def batch_layout(self, call: Call, prompts: int) -> tuple[int, int]:
        """How many copies of the latents one call holds, and which of them (from 0) is the conditional one.

        Classifier-free guidance puts an unconditional copy in front, perturbed-attention guidance a perturbed one
        behind. Raises RuntimeError if it is not this pipeline that runs.
        """
        try:
            conditional = int(self.pipe.do_classifier_free_guidance)
        except AttributeError:  # every call sets what the property reads
            raise RuntimeError(
                f"this {type(self.pipe).__name__} is under control, but another pipeline with the same scheduler and "
                "UNet runs: attach to that one"
            ) from None
        return conditional + 1 + int(getattr(self.pipe, "do_perturbed_attention_guidance", False)), conditional

    def perturbed_layers(self) -> list[str]:
        """The attention layers in which perturbed-attention guidance treats the copies of the batch differently."""
        return [name.removesuffix(".processor") for name in getattr(self.pipe, "pag_attn_processors", {})]

    def attention_modules(self) -> dict[str, nn.Module]:
        """All attention layers of the transformer blocks by name."""
        return {
            name: module
            for name, module in self.denoiser.named_modules()
            if name.split(".")[0] in BLOCKS and name.endswith((".attn1", ".attn2")) and hasattr(module, "processor")
        }

    def grid(self, call: Call) -> Size:
        """Height and width of the latents."""
        return tuple(call["sample"].shape[-2:])

    def capture(self, call: Call, layers: Sequence[Layer]) -> Capture:
        """Reads maps by attention processors, which also serves IP-Adapter and explicit attention."""
        return Capture({layer.name: self.modules[layer.name] for layer in layers})

    def layers(self, latent_size: Size) -> list[Layer]:
        """The attention layers with the size of their maps for latents of (height, width)."""
        sizes = self._block_sizes(latent_size)
        layers = []
        for name, module in self.modules.items():
            parts = name.split(".")
            block = parts[0] if parts[0] == "mid_block" else f"{parts[0]}.{parts[1]}"
            place = BLOCKS[parts[0]]
            by_default = place in self.default_places
            layers.append(Layer(name, place, module.is_cross_attention, sizes[block], by_default))
        return layers

    def _block_sizes(self, size: Size) -> dict[str, Size]:
        down = []
        for block in self.denoiser.down_blocks:
            down.append(size)
            if block.downsamplers is not None:
                size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        named = {f"down_blocks.{i}": s for i, s in enumerate(down)}
        named |= {f"up_blocks.{i}": s for i, s in enumerate(reversed(down))}
        return named | {"mid_block": size}
