"""Reading attention probabilities out of a denoiser. The only file that touches attention modules."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName
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
        self.thread = threading.get_ident()

    @property
    def is_foreign(self) -> bool:
        """Whether a plain call of another thread, which shares the denoiser, runs here.

        Recomputation for a backward pass may run in a thread of autograd's, but with gradients on.
        """
        return threading.get_ident() != self.thread and not torch.is_grad_enabled()

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


class ForwardCapture(Capture):
    """The same for transformers, whose processors are left alone: the modules' `forward` is wrapped instead.

    Query and key are read at a module's first scaled-dot-product attention; `parts` has, for every row of the batch,
    the image's queries and the text's keys (docs/add_a_family.md). The maps are functions, since joint attention is
    large. Inside `installed()` every processor of `denoiser` uses torch's own attention kernels: others have no
    backward pass or call none that could be read.
    """

    def __init__(
        self, denoiser: nn.Module, layers: Mapping[str, nn.Module], parts: Sequence[tuple[slice, slice]]
    ) -> None:
        super().__init__(layers)
        self.denoiser, self.parts = denoiser, parts

    @contextmanager
    def installed(self) -> Iterator[Capture]:
        """Wraps the modules' forwards and puts everything back on any exit."""
        try:
            for name, layer in self.layers.items():
                layer.forward = self._reading(name, layer.forward)
            with native_attention(self.denoiser):
                yield self
        finally:
            for layer in self.layers.values():
                vars(layer).pop("forward", None)

    def _reading(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if self.is_foreign:
                return forward(*args, **kwargs)
            with _ScoresReader(self, name):
                return forward(*args, **kwargs)

        return wrapper

    def store_scores(self, name: str, query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> None:
        """Keeps what the maps of a layer are made of: image rows of the query, all keys."""
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        if key.shape[1] != query.shape[1]:  # grouped keys
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        masks = [None] * len(query) if mask is None else mask.expand(len(query), *mask.shape[1:])
        rows = zip(query, key, masks, self.parts, strict=True)
        self.store(name, [partial(_text_part, q, k, m, scale, *part) for q, k, m, part in rows])


def _text_part(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None, queries: slice, columns: slice
) -> Tensor:
    """The image's rows and the text's columns of a joint softmax: [heads, image queries, text positions].

    Columns that begin before the first key or end behind the last one are 0 there.
    """
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., queries, :]
    probabilities = attention_probabilities(query[:, queries], key, mask, scale)
    if columns.start is None or columns.start >= 0:
        return probabilities[..., columns]
    return F.pad(probabilities[..., : columns.stop], (-columns.start, 0))


@contextmanager
def native_attention(denoiser: nn.Module) -> Iterator[None]:
    """Makes every attention processor use torch's own kernels; their choice comes back on any exit."""
    processors = [module.processor for module in denoiser.modules() if hasattr(module, "processor")]
    chosen = [(p, vars(p).get("_attention_backend", p)) for p in processors if hasattr(p, "_attention_backend")]
    try:
        for processor, _ in chosen:
            processor._attention_backend = AttentionBackendName.NATIVE
        yield
    finally:
        for processor, own in chosen:
            if own is processor:  # it had none of its own
                del processor._attention_backend
            else:
                processor._attention_backend = own


class _ScoresReader(TorchFunctionMode):
    """Stores query and key of the first scaled-dot-product attention under it; later ones are image prompts'."""

    def __init__(self, capture: ForwardCapture, name: str) -> None:
        super().__init__()
        self.capture, self.name, self.done = capture, name, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and not self.done:
            self.done = True
            query, key = args[:2] if len(args) >= 2 else (kwargs["query"], kwargs["key"])
            mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
            self.capture.store_scores(self.name, query, key, mask, kwargs.get("scale"))
        return func(*args, **kwargs)


@contextmanager
def plain_attention(layers: Iterable[nn.Module], processor: type) -> Iterator[None]:
    """Gives layers processors of this class, and their own ones back on any exit."""
    own = {layer: layer.processor for layer in layers}
    try:
        for layer in own:
            layer.set_processor(processor())
        yield
    finally:
        for layer, before in own.items():
            layer.set_processor(before)


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
        if self.capture.is_foreign:
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs)
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
