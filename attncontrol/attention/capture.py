"""Reading attention probabilities out of a denoiser. The only file that touches attention processors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class ForwardTruncated(Exception):
    """Raised inside a denoiser as soon as every wanted layer has been captured: the rest is not needed."""


class Capture:
    """The attention probabilities of chosen layers during one forward.

    `layers` maps names to attention modules (diffusers `Attention`). Inside `installed()` the processors of these
    layers are wrapped; a forward then fills `maps` per name, in order of execution, with one entry per row of the
    batch, float32 [heads, queries, keys] or for self-attention a function that computes it, and raises
    `ForwardTruncated` after the last one. The processors must stay installed until the backward pass is done, since
    gradient checkpointing calls them again.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.layers = dict(layers)
        self.maps: dict[str, Tensor | list[Callable[[], Tensor]]] = {}

    @contextmanager
    def installed(self) -> Iterator[Capture]:
        """Wraps the processors and puts the same objects back on any exit."""
        inner = {name: layer.processor for name, layer in self.layers.items()}
        try:
            for name, layer in self.layers.items():
                layer.set_processor(CapturingProcessor(inner[name], name, self))
            yield self
        finally:
            for name, layer in self.layers.items():
                layer.set_processor(inner[name])

    def store(self, name: str, maps: Tensor | list[Callable[[], Tensor]]) -> None:
        """Keeps the first maps of a layer; a checkpointed layer runs again in the backward pass."""
        if name in self.maps:
            return
        self.maps[name] = maps
        if len(self.maps) == len(self.layers):
            raise ForwardTruncated


@contextmanager
def plain_attention(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Gives layers the processor of plain attention, and their own ones back on any exit."""
    own = {layer: layer.processor for layer in layers}
    try:
        for layer in own:
            layer.set_processor(AttnProcessor2_0())
        yield
    finally:
        for layer, processor in own.items():
            layer.set_processor(processor)


class CapturingProcessor:
    """Wraps any attention processor and reads the probabilities it works with.

    Queries and keys are taken where the inner processor hands them to scaled-dot-product attention. In
    cross-attention the output is computed from the probabilities, which are needed anyway; the large ones of
    self-attention are left to whom they interest, a row at a time. Processors that never call it (sliced or explicit
    attention) get their probabilities recomputed from the layer's own projections.
    """

    def __init__(self, inner: Any, name: str, capture: Capture) -> None:
        self.inner, self.name, self.capture = inner, name, capture
        # diffusers decides by this signature which cross_attention_kwargs to pass on
        self.__call__ = inner.__call__

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        with _AttentionReader(self, attn.is_cross_attention) as reader:
            output = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        if not reader.done:
            scores = project(attn, hidden_states, encoder_hidden_states, attention_mask)
            maps = attention_probabilities(*scores) if attn.is_cross_attention else deferred_probabilities(*scores)
            self.capture.store(self.name, maps)
        return output


class _AttentionReader(TorchFunctionMode):
    """Stores the probabilities of the first scaled-dot-product attention under it; a cross-attention becomes explicit.

    Later ones in the same processor (the image prompt of an IP-Adapter) are left alone: the text comes first.
    """

    def __init__(self, processor: CapturingProcessor, is_cross: bool) -> None:
        super().__init__()
        self.processor, self.is_cross, self.done = processor, is_cross, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or self.done:
            return func(*args, **kwargs)
        self.done = True
        query, key, value = args[:3] if len(args) >= 3 else (kwargs["query"], kwargs["key"], kwargs["value"])
        mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        scores = query, key, mask, kwargs.get("scale")
        capture, name = self.processor.capture, self.processor.name
        if not self.is_cross:
            capture.store(name, deferred_probabilities(*scores))
            return func(*args, **kwargs)
        probabilities = attention_probabilities(*scores)
        capture.store(name, probabilities)
        return probabilities.to(value.dtype) @ value


def attention_probabilities(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """softmax(scale * query @ key^T + mask) in float32: [..., heads, queries, keys] from [..., heads, n, dim].

    A boolean mask keeps where it is True; `scale` defaults to 1 / sqrt(dim).
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query.float() * scale) @ key.float().transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.float()
    return scores.softmax(-1)


def deferred_probabilities(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None
) -> list[Callable[[], Tensor]]:
    """For every row of the batch a function that computes its `attention_probabilities`."""
    masks = [None] * len(query) if mask is None else mask.expand(len(query), *mask.shape[1:])
    return [partial(attention_probabilities, q, k, m, scale) for q, k, m in zip(query, key, masks, strict=True)]


def project(
    attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """Query, key, mask and scale of a diffusers `Attention` layer from its own norms and projections."""
    if hidden_states.ndim == 4:
        hidden_states = hidden_states.flatten(2).transpose(1, 2)
    if attn.group_norm is not None:
        hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    if encoder_hidden_states is not None and attn.norm_cross:
        keys = attn.norm_encoder_hidden_states(keys)
    query, key = (
        x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (attn.to_q(hidden_states), attn.to_k(keys))
    )
    if attention_mask is not None:
        attention_mask = attn.prepare_attention_mask(attention_mask, keys.shape[1], keys.shape[0])
        attention_mask = attention_mask.unflatten(0, (-1, attn.heads))
    return query, key, attention_mask, attn.scale
