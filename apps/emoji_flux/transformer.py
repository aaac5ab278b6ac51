"""The transformer and its scheduler, and what its attention is taught: where things are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import T5EncoderModel

from apps.emoji.text import WIDTH
from attncontrol.attention.capture import ForwardCapture
from attncontrol.attention.maps import EVERY, Deferred

from .latents import CHANNELS

HEADS, HEAD, ROPE = 6, 32, (4, 14, 14)
CELLS = 16  # of a side: the image's tokens
TAUGHT = (  # what comes before knows too little of the picture
    "transformer_blocks.1.attn",
    "transformer_blocks.2.attn",
    "single_transformer_blocks.0.attn",
    "single_transformer_blocks.2.attn",
)
MODULATIONS = ("norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear")  # of the timestep
MASS = 0.35  # share of all attention in a thing's box that goes to its words


def build_transformer(blocks: tuple[int, int] = (3, 6)) -> FluxTransformer2DModel:
    """`blocks`: how many double and single ones. At first every block passes its input on, and the output is 0."""
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * CHANNELS,
        num_layers=blocks[0],
        num_single_layers=blocks[1],
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=ROPE,
    )
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if name == "proj_out" or name.endswith(MODULATIONS):
            nn.init.zeros_(module.weight)
        elif name.startswith("time_text_embed"):
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    return model


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's, at every size with the shift that it has at 1024 px: exp(1.15) = 3.16."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=1.15,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


class Model(nn.Module):
    """What is trained: the T5 encoder and the transformer."""

    def __init__(self, encoder: T5EncoderModel, transformer: FluxTransformer2DModel) -> None:
        super().__init__()
        self.encoder, self.transformer = encoder, transformer
        modules = dict(transformer.named_modules())
        self.layers = {name: modules[name] for name in TAUGHT if name in modules}

    def states(self, ids: Tensor) -> Tensor:
        """The text states of token ids (N, slots) as the pipeline computes them: (N, slots, WIDTH)."""
        return self.encoder(input_ids=ids).last_hidden_state

    def velocity(self, noisy: Tensor, states: Tensor, pooled: Tensor, sigma: Tensor, guidance: Tensor) -> Tensor:
        """From noisy tokens (N, 256, 4C) at noise levels sigma (N,), float32 of the same shape."""
        cells = torch.cartesian_prod(torch.arange(1), torch.arange(CELLS), torch.arange(CELLS)).to(noisy)
        return self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=sigma,
            guidance=guidance,
            img_ids=cells,
            txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device),
            return_dict=False,
        )[0].float()

    @contextmanager
    def recorded(self, count: int, slots: int) -> Iterator[dict[str, Deferred]]:
        """Image-to-text attention of the taught blocks in a forward pass inside: [N, heads, 256, slots] each."""
        parts = [(slice(slots, None), slice(0, slots))] * count
        capture = _WholeCapture(list(self.layers.values()), self.layers, parts)
        with capture.installed():
            yield capture.maps


class _WholeCapture(ForwardCapture):
    """Lets the forward pass run to its end: training needs its output, too."""

    def store(self, name: str, maps: Tensor | Deferred) -> None:
        self.maps[name] = maps


def grounding_loss(maps: list[Deferred], wanted: Tensor, live: Tensor) -> Tensor:
    """Binary cross-entropies between the maps of the live slots and what they should show, a mean over blocks.

    One is of shares of the attention on text, the other of all attention, towards MASS times as much, so that the raw
    probabilities have a known scale. wanted: (N, slots, 16, 16) in 0..1; live: (N, slots) bool.
    """
    aim = wanted[live].flatten(1)
    losses = []
    for layer in maps:
        words = layer.compute(EVERY, EVERY).mean(1)
        for found, share in ((words / words.sum(-1, keepdim=True), 1.0), (words, MASS)):
            found = found.transpose(1, 2)[live].clamp(1e-5, 1 - 1e-5)
            losses.append(F.binary_cross_entropy(found, share * aim, reduction="sum") / max(1, aim.numel()))
    return torch.stack(losses).sum() / len(maps)
