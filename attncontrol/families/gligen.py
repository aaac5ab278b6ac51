"""UNets with gates: GLIGEN's fusers, which join a picture's features with tokens for phrases and their boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from diffusers.models.attention import GatedSelfAttentionDense
from torch import Tensor, nn

from attncontrol.attention.layers import Layer, Size, match_layers
from attncontrol.families.base import Call
from attncontrol.families.unet import BLOCKS, UNetFamily

SLOTS = 30  # grounding tokens of an image; those without a box are null tokens, which are attended to as well
ATTENTION = ".fuser.attn"


def has_gates(denoiser: Any) -> bool:
    """Whether a denoiser has gates of any kind, for phrases or for phrases and pictures."""
    kind = getattr(getattr(denoiser, "config", None), "attention_type", None)
    return isinstance(kind, str) and kind.startswith("gated")


class GatedUNetFamily(UNetFamily):
    """A pipeline around a UNet with gates, whoever tells it of boxes."""

    def batch_layout(self, call: Call, prompts: int) -> tuple[int, int]:
        """As `UNetFamily`; of a pipeline that does not tell, the unconditional copy is the half without any box."""
        if tells_of_guidance(self.pipe):
            return super().batch_layout(call, prompts)
        grounding = (call.get("cross_attention_kwargs") or {}).get("gligen") or {}
        if "masks" not in grounding:
            raise RuntimeError(
                f"this {type(self.pipe).__name__} is under control, but its UNet is called without boxes, as by "
                "another pipeline that shares it: attach to that one"
            )
        used = grounding["masks"].flatten(1).any(1).tolist()
        half = len(used) // 2
        guided = len(used) % 2 == 0 and not any(used[:half]) and any(used)
        return (2, 1) if guided else (1, 0)


class GroundedUNetFamily(GatedUNetFamily):
    """The same where this library tells the UNet of boxes, so that the fusers' own attention can be looked at."""

    def blocks(self) -> dict[str, nn.Module]:
        """The transformer blocks with a fuser by name."""
        return {
            name: block
            for name, block in self.denoiser.named_modules()
            if name.split(".")[0] in BLOCKS and isinstance(getattr(block, "fuser", None), GatedSelfAttentionDense)
        }

    def matching_blocks(self, patterns: str) -> list[nn.Module]:
        """The blocks that patterns like "up.1, mid" name. Raises ValueError if one names none."""
        blocks = self.blocks()
        layers = [Layer(name, BLOCKS[name.split(".")[0]], False, (1, 1)) for name in blocks]
        return [blocks[layer.name] for layer in match_layers(layers, patterns)]

    def attention_modules(self) -> dict[str, nn.Module]:
        """Those of `UNetFamily` and, by the names of their fusers, the attention of the gates."""
        gates = {f"{name}{ATTENTION}": block.fuser.attn for name, block in self.blocks().items()}
        return {**super().attention_modules(), **gates}

    def layers(self, latent_size: Size) -> list[Layer]:
        """As `UNetFamily`, with those of open gates."""
        layers = super().layers(latent_size)
        return self.running([dataclasses.replace(m, is_grounding=m.name.endswith(ATTENTION)) for m in layers])

    def running(self, layers: Sequence[Layer]) -> list[Layer]:
        """All but those of closed gates, which never run."""
        return [layer for layer in layers if not layer.is_grounding or self._fuser(layer).enabled]

    def _fuser(self, layer: Layer) -> Any:
        return self.denoiser.get_submodule(layer.name.removesuffix(".attn"))

    def example_call(self, images: int, grid: Size, text: int | None = None) -> Call:
        """As `UNetFamily`, with empty boxes."""
        width = self.denoiser.config.cross_attention_dim
        call = super().example_call(images, grid, text)
        return with_boxes(
            call,
            {
                "boxes": self.empty(images, SLOTS, 4),
                "positive_embeddings": self.empty(images, SLOTS, width),
                "masks": self.empty(images, SLOTS),
            },
        )


def with_boxes(call: Call, boxes: dict[str, Tensor]) -> Call:
    """The arguments of a UNet's call with boxes: rows of the batch first."""
    return {**call, "cross_attention_kwargs": {**(call.get("cross_attention_kwargs") or {}), "gligen": boxes}}


def tells_of_guidance(pipe: Any) -> bool:
    """Whether a pipeline has the property that says whether its batch holds unconditional rows."""
    # asked of the class: before its first call a pipeline cannot answer the property itself
    return hasattr(type(pipe), "do_classifier_free_guidance") or "do_classifier_free_guidance" in vars(pipe)
