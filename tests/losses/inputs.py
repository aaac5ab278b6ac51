"""What the tests of the methods feed them: attention, prompts and contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap
from attncontrol.losses import Context, Method
from attncontrol.prompt.structure import Entity, PromptStructure, Word

Piece = int | Sequence[int] | None


def word(pieces: Piece) -> Word:
    """A word that owns these tokens; None owns none."""
    indices = () if pieces is None else (pieces,) if isinstance(pieces, int) else tuple(pieces)
    return Word(" ".join(map(str, indices)), None, indices)


def structure(groups: Sequence[Sequence[Piece]], n_tokens: int = 9) -> PromptStructure:
    """A prompt with one entity per group, its noun last."""
    entities = tuple(Entity(word(group[-1]), tuple(word(m) for m in group[:-1])) for group in groups)
    return PromptStructure(None, entities, "subjects", n_tokens, (tuple(range(1, n_tokens - 1)),))


def published_structure(groups: Sequence[Sequence[Piece]], n_tokens: int) -> PromptStructure:
    """The same from groups of SynGen's or EBAMA's published code.

    [None, noun] never had a modifier there, [noun] had some and lost them all in the alignment.
    """
    return structure(
        [group[1:] if group[0] is None else [None, *group] if len(group) == 1 else group for group in groups], n_tokens
    )


def context(groups: Sequence[Sequence[Piece]] = (), n_tokens: int = 9, **known: Any) -> Context:
    """A context of iteration 0 of 50, unless said otherwise."""
    return Context(**{"prompt": structure(groups, n_tokens), "index": 0, "count": 50, **known})


def one_layer(attention: Tensor) -> AttentionMaps:
    """Mean attention [height, width, positions] as the only head of the only captured layer."""
    height, width, positions = attention.shape
    layer = Layer("up_blocks.1.attn2", "up", True, (height, width))
    return AttentionMaps((LayerMap(layer, attention.reshape(1, height * width, positions)),))


def alone(maps: AttentionMaps) -> AttentionMaps:
    """Maps of one image [heads, queries, keys] as those of a batch of one."""
    return AttentionMaps(tuple(LayerMap(m.layer, m.probabilities[None]) for m in maps.layers))


@dataclass(frozen=True)
class OneImage:
    """An evaluation's numbers for the only image of a batch."""

    loss: Tensor
    objective: Tensor | None
    monitor: Tensor | None
    carry: Any


def evaluate(method: Method, maps: AttentionMaps, now: Context) -> OneImage:
    """What a method says of one image's maps [heads, queries, keys]."""
    found = method.evaluate(alone(maps), [now])
    numbers = (None if x is None else x[0] for x in (found.loss, found.objective, found.monitor))
    return OneImage(*numbers, None if found.carries is None else found.carries[0])


def mean_cross(maps: AttentionMaps, size: tuple[int, int]) -> Tensor:
    """Mean attention [height, width, positions] of one image's maps [heads, queries, keys]."""
    return alone(maps).mean_cross(size)[0]


def gradient(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the loss; zeros where it does not depend on the input, as in the engine."""
    if not loss.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)


def random_attention(
    seed: int, size: tuple[int, int] = (8, 8), positions: int = 20, sharpness: float = 3.0, dtype=torch.float32
) -> Tensor:
    """Softmax maps [height, width, positions] with a heavy start of text, as denoisers have them; a leaf."""
    logits = torch.randn(*size, positions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits[..., 0] += 2
    return torch.softmax(sharpness * logits, dim=-1).to(dtype).requires_grad_()


attentions = st.builds(
    random_attention,
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    sharpness=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
)
