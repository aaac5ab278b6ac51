"""Handing the attention of the source images to the edited ones while both are denoised in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attncontrol.attention.capture import attention_arguments
from attncontrol.attention.layers import Layer, Size
from attncontrol.attention.probabilities import attention_probabilities
from attncontrol.editing.alignment import PromptAlignment
from attncontrol.editing.blend import LocalBlend
from attncontrol.editing.maps import StepMaps


@dataclass
class Injection:
    """What is injected, and when. The last rows of a batch are `images` sources and as many edits.

    `cross` and `self_attention` are the fractions of the steps, from the first, in which the edits take over the
    attention of their sources; `factors` [positions] multiply columns of the edits' cross-attention in every step.
    `finest` is the largest size of self-attention that is copied. `maps` keeps cross-attention as it is used.
    `fraction` is how much of the run is done.
    """

    alignment: PromptAlignment
    images: int
    cross: float
    self_attention: float
    finest: Size
    factors: Tensor | None = None
    blend: LocalBlend | None = None
    maps: StepMaps | None = None
    fraction: float = field(default=0.0, init=False)

    def wants(self, layer: Layer) -> bool:
        """Whether the attention of a layer is changed or read in the present step."""
        if layer.is_cross:
            return True
        return self.fraction < self.self_attention and max(layer.size) <= max(self.finest)

    def apply(self, probabilities: Tensor, layer: Layer) -> Tensor:
        """The attention after injection: [rows, heads, queries, keys] as before, only the edits' rows change."""
        n = self.images
        source, edit = probabilities[-2 * n : -n], probabilities[-n:]
        if not layer.is_cross:
            edit = source
        elif self.fraction < self.cross:
            matrix = self.alignment.matrix.to(edit)
            edit = edit * (1 - self.alignment.weights.to(edit)) + source @ matrix
        if layer.is_cross and self.factors is not None:
            edit = edit * self.factors.to(edit)
        if layer.is_cross and self.blend is not None:
            self.blend.add(source, edit, layer.size)
        if layer.is_cross and self.maps is not None:
            self.maps.add(source, edit, layer.size)
        return torch.cat([probabilities[:-n], edit])


class Observer(Protocol):
    """What may read and change attention: an `Injection`, or something that only looks."""

    def wants(self, layer: Layer) -> bool:
        """Whether the attention of a layer is changed or read in the present step."""

    def apply(self, probabilities: Tensor, layer: Layer) -> Tensor:
        """The attention to go on with: [rows, heads, queries, keys] as before."""


@contextmanager
def observed(observer: Observer | None, layers: Sequence[Layer], modules: dict[str, nn.Module]) -> Iterator[None]:
    """Wraps the processors of the layers and puts the same objects back on any exit; does nothing for None."""
    own = {layer.name: modules[layer.name].processor for layer in layers} if observer is not None else {}
    try:
        for layer in layers if observer is not None else ():
            processor = own[layer.name]
            # processors with weights (IP-Adapter) stay; the others compute plain attention in one way or another
            inner = processor if isinstance(processor, nn.Module) else AttnProcessor2_0()
            modules[layer.name].set_processor(InjectingProcessor(inner, layer, observer))
        yield
    finally:
        for name, processor in own.items():
            modules[name].set_processor(processor)


class InjectingProcessor:
    """Wraps an attention processor; what it hands to scaled-dot-product attention is computed under an observer."""

    def __init__(self, inner: Any, layer: Layer, observer: Observer) -> None:
        self.inner, self.layer, self.observer = inner, layer, observer
        # diffusers decides by this signature which cross_attention_kwargs to pass on
        self.__call__ = inner.__call__

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attends as the inner processor does, or under the observer."""
        if not self.observer.wants(self.layer):
            return self.inner(attn, hidden_states, *args, **kwargs)
        with _ExplicitAttention(self.observer, self.layer):
            return self.inner(attn, hidden_states, *args, **kwargs)


class _ExplicitAttention(TorchFunctionMode):
    """Computes the first scaled-dot-product attention under it from probabilities that the observer may change."""

    def __init__(self, observer: Observer, layer: Layer) -> None:
        super().__init__()
        self.observer, self.layer, self.done = observer, layer, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or self.done:
            return func(*args, **kwargs)
        self.done = True
        query, key, value, mask, scale = attention_arguments(args, kwargs)
        probabilities = attention_probabilities(query, key, mask, scale)
        return self.observer.apply(probabilities, self.layer).to(value.dtype) @ value
