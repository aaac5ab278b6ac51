"""Reading attention probabilities out of a denoiser. The only file that touches attention modules."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attncontrol.attention.maps import EVERY, Deferred
from attncontrol.attention.probabilities import attention_probabilities, column_probabilities


class ForwardTruncated(Exception):
    """Raised inside a denoiser as soon as every wanted layer has been captured: the rest is not needed."""


def truncate() -> None:
    """Ends a forward."""
    raise ForwardTruncated


def without_gradients() -> None:
    """Lets a forward go on without gradients."""
    torch.set_grad_enabled(False)


class Capture:
    """The attention probabilities of chosen layers, anew in every forward.

    `layers` maps names to attention modules (diffusers `Attention`). Inside `installed()` the processors of these
    layers are wrapped; a forward then fills `maps` per name, in order of execution, float32 [rows, heads, queries,
    keys] or for self-attention something that computes it, and does `at_end` after the last one. The processors must
    stay installed until the backward pass is done, since gradient checkpointing calls them again.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.layers = dict(layers)
        self.at_end: Callable[[], None] = truncate
        self.maps: dict[str, Tensor | Deferred] = {}
        self.thread = threading.get_ident()
        self._processors: dict[str, _StoringProcessor] = {}

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
        self.thread = threading.get_ident()
        try:
            for name, layer in self.layers.items():
                layer.set_processor(self._storing(name, inner[name]))
            yield self
        finally:
            self.maps = {}  # they hold the graph
            for name, layer in self.layers.items():
                layer.set_processor(inner[name])

    def _storing(self, name: str, inner: Any) -> _StoringProcessor:
        """A layer's processor for this capture, the same in every forward."""
        made = self._processors.get(name)
        if made is None or made.inner is not inner:
            made = self._processors[name] = _StoringProcessor(inner, name, self)
        return made

    def store(self, name: str, maps: Tensor | Deferred) -> None:
        """Keeps the first maps of a layer; a checkpointed layer runs again in the backward pass."""
        if name in self.maps:
            return
        self.maps[name] = maps
        if len(self.maps) == len(self.layers):
            self.at_end()


class ForwardCapture(Capture):
    """The same for transformers, whose processors are left alone: the modules' `forward` is wrapped instead.

    Query and key are read at a module's first scaled-dot-product attention; `parts` has, for every row of the batch,
    the image's queries and the text's keys (docs/add_a_family.md). The maps are deferred, since joint attention is
    large. Inside `installed()` the processors of all modules in `attention` use torch's own kernels: others have no
    backward pass or call none that could be read.
    """

    def __init__(
        self, attention: Sequence[nn.Module], layers: Mapping[str, nn.Module], parts: Sequence[tuple[slice, slice]]
    ) -> None:
        super().__init__(layers)
        self.attention, self.parts = attention, parts
        self._forwards = {name: self._reading(name, layer.forward) for name, layer in self.layers.items()}

    @contextmanager
    def installed(self) -> Iterator[Capture]:
        """Wraps the modules' forwards and puts everything back on any exit."""
        own = {name: vars(layer).get("forward") for name, layer in self.layers.items()}
        self.thread = threading.get_ident()
        try:
            for name, layer in self.layers.items():
                layer.forward = self._forwards[name]
            with native_attention(self.attention):
                yield self
        finally:
            self.maps = {}  # they hold the graph
            for name, layer in self.layers.items():
                vars(layer).pop("forward", None)
                if own[name] is not None:
                    layer.forward = own[name]

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
        queries, columns = self.parts[0]
        if all(part == self.parts[0] for part in self.parts) and (columns.start or 0) >= 0:
            own = mask[..., queries, :] if mask is not None and mask.shape[-2] > 1 else mask
            self.store(name, deferred_probabilities(query[:, :, queries], key, own, scale, columns))
            return
        longest = max(_length(own, key.shape[2]) for _, own in self.parts)
        masks = [None] * len(query) if mask is None else mask.expand(len(query), *mask.shape[1:])

        def compute(images: slice | Tensor, some: slice) -> Tensor:
            rows = range(len(query))[images] if isinstance(images, slice) else images.tolist()
            texts = [_text_part(query[i], key[i], masks[i], scale, *self.parts[i])[:, some] for i in rows]
            return torch.stack([F.pad(text, (0, longest - text.shape[-1])) for text in texts])

        image = len(range(query.shape[2])[queries])
        self.store(name, Deferred((len(query), query.shape[1], image, key.shape[2]), compute, query.device))


def _text_part(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None, queries: slice, columns: slice
) -> Tensor:
    """The image's rows and the text's columns of a joint softmax: [heads, image queries, text positions].

    Columns that begin before the first key or end behind the last one are 0 there.
    """
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., queries, :]
    before = max(-(columns.start or 0), 0)
    inside = columns if before == 0 else slice(columns.stop)
    return F.pad(column_probabilities(query[:, queries], key, mask, scale, inside), (before, 0))


def _length(columns: slice, keys: int) -> int:
    """How many columns `_text_part` gives of so many keys."""
    before = max(-(columns.start or 0), 0)
    return before + len(range(keys)[(columns.start or 0) + before : columns.stop])


@contextmanager
def native_attention(attention: Iterable[nn.Module]) -> Iterator[None]:
    """Makes the processors of attention modules use torch's own kernels; their choice comes back on any exit."""
    processors = [module.processor for module in attention]
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
            query, key, _, mask, scale = attention_arguments(args, kwargs)
            self.capture.store_scores(self.name, query, key, mask, scale)
        return func(*args, **kwargs)


@contextmanager
def plain_attention(layers: Iterable[nn.Module], processor: type) -> Iterator[None]:
    """Gives layers processors of this class, and their own ones back on any exit."""
    own = [(layer, layer.processor) for layer in layers]
    try:
        for layer, _ in own:
            layer.set_processor(processor())
        yield
    finally:
        for layer, before in own:
            layer.set_processor(before)


class CapturingProcessor:
    """Wraps any attention processor of a Stable Diffusion UNet and keeps the probabilities it works with.

    Set by hand, it shows attention maps without any loss and changes no picture (docs/maps.md). Queries and keys are
    taken where the inner processor hands them to scaled-dot-product attention. Processors that never call it (sliced
    or explicit attention) get their probabilities recomputed from the layer's own projections.

    Args:
        inner: The processor to wrap, as a rule the layer's own.

    Attributes:
        maps: Of the layer's last forward, None before it. For cross-attention the probabilities, float32
            [rows of the batch, heads, queries, text positions]. Those of self-attention are large and come as a
            `Deferred`, whose `compute` gives them for some rows and queries.

    Example:
        processors = {
            name: CapturingProcessor(inner) if "attn2" in name else inner
            for name, inner in pipe.unet.attn_processors.items()
        }
        pipe.unet.set_attn_processor(dict(processors))  # it takes them out of the dict
        pipe("a cat and a dog")
        processors["mid_block.attentions.0.transformer_blocks.0.attn2.processor"].maps.shape
    """

    is_explicit = False  # whether the output of cross-attention is computed from the probabilities

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.maps: Tensor | Deferred | None = None
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
        """Attends as the inner processor does; what it pays attention to is stored."""
        with _AttentionReader(self, attn.is_cross_attention) as reader:
            output = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        if not reader.done:
            scores = project(attn, hidden_states, encoder_hidden_states, attention_mask)
            maps = attention_probabilities(*scores) if attn.is_cross_attention else deferred_probabilities(*scores)
            self.store(maps)
        return output

    def store(self, maps: Tensor | Deferred) -> None:
        """Keeps the maps of a forward."""
        self.maps = maps


class _StoringProcessor(CapturingProcessor):
    """The processor of a guided pass: it stores to a capture, and uses the probabilities, which it needs anyway."""

    is_explicit = True

    def __init__(self, inner: Any, name: str, capture: Capture) -> None:
        super().__init__(inner)
        self.name, self.capture = name, capture

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        run = self.inner if self.capture.is_foreign else super().__call__
        return run(attn, hidden_states, encoder_hidden_states, attention_mask, **kwargs)

    def store(self, maps: Tensor | Deferred) -> None:
        self.capture.store(self.name, maps)


class _AttentionReader(TorchFunctionMode):
    """Stores the probabilities of the first scaled-dot-product attention under it.

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
        query, key, value, mask, scale = attention_arguments(args, kwargs)
        scores = query, key, mask, scale
        if not self.is_cross:
            self.processor.store(deferred_probabilities(*scores))
            return func(*args, **kwargs)
        probabilities = attention_probabilities(*scores)
        self.processor.store(probabilities)
        return probabilities.to(value.dtype) @ value if self.processor.is_explicit else func(*args, **kwargs)


def attention_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Query, key, value, mask and scale of a call of scaled-dot-product attention; None where it has none."""
    given = {**dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)), **kwargs}
    return tuple(given.get(name) for name in ("query", "key", "value", "attn_mask", "scale"))


def deferred_probabilities(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None, columns: slice = EVERY
) -> Deferred:
    """The `attention_probabilities` of a batch, computed when asked for; of the keys only `columns` are shown."""

    def compute(images: slice | Tensor, queries: slice) -> Tensor:
        q, k, own = query, key, mask
        if own is not None:
            own = own.expand(len(query), *own.shape[1:])
        if not isinstance(images, slice) or images != EVERY:
            q, k, own = (None if x is None else x[images] for x in (q, k, own))
        if queries != EVERY:
            q = q[..., queries, :]
            own = own[..., queries, :] if own is not None and own.shape[-2] > 1 else own
        if columns == EVERY:
            return attention_probabilities(q, k, own, scale)
        return column_probabilities(q, k, own, scale, columns)

    return Deferred((*query.shape[:3], key.shape[2]), compute, query.device)


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
