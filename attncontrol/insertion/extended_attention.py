"""Weighted extended self-attention (Add-it, section 4.1): a new image also sees the keys and values of its source.

Sequences are the text's positions and then the image's, as in FLUX; row 0 of a batch is the source, row 1 the target.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attncontrol.attention.capture import attention_arguments, native_attention

PIECE = 512  # image queries whose attention is computed at once


def extended(key: Tensor, value: Tensor, text: int, gamma: float) -> tuple[Tensor, Tensor]:
    """Keys and values that the target sees: the source's image, then its own text and image, their keys times gamma.

    Args:
        key: [2, heads, positions, dim], of which the first `text` are the text's.
        value: Likewise.
        text: How many positions are the text's.
        gamma: Weight of the target's own keys.

    Returns:
        Both [1, heads, image + positions, dim].
    """
    keys = torch.cat([key[:1, :, text:], gamma * key[1:]], 2)
    return keys, torch.cat([value[:1, :, text:], value[1:]], 2)


def extended_attention(
    query: Tensor, key: Tensor, value: Tensor, text: int, gamma: float, scale: float | None = None
) -> Tensor:
    """Ordinary attention for the source, `extended` keys for the target: [2, heads, positions, dim] as all inputs."""
    source = F.scaled_dot_product_attention(query[:1], key[:1], value[:1], scale=scale)
    target = F.scaled_dot_product_attention(query[1:], *extended(key, value, text, gamma), scale=scale)
    return torch.cat([source, target])


def text_masses(query: Tensor, keys: Tensor, source: int, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """How much the text looks at the source's image and at the target's.

    Args:
        query: The target's text [heads, text, dim].
        keys: What it sees, [heads, source + text + image, dim].
        source: How many of the keys are the source's.
        scale: Of the scores; 1 / sqrt(dim) by default.

    Returns:
        Two numbers: the attention of all text queries, averaged over heads and summed over either image's keys.
    """
    probabilities = _scores(query, keys, scale).softmax(-1).mean(0)
    return probabilities[:, :source].sum(), probabilities[:, source + query.shape[1] :].sum()


def token_maps(
    query: Tensor, keys: Tensor, tokens: Sequence[int], text: int, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """How some tokens and the image look at each other, averaged over heads.

    Args:
        query: Of one image, [heads, positions, dim].
        keys: [heads, keys, dim], of which the last ones are those positions' own.
        tokens: Positions of the text.
        text: How many positions are the text's.
        scale: Of the scores; 1 / sqrt(dim) by default.

    Returns:
        From the tokens to the image and from the image to the tokens, both [tokens, image]. Softmaxes are over all
        keys.
    """
    own = keys.shape[1] - query.shape[1]
    columns = [own + token for token in tokens]
    to_image = _scores(query[:, list(tokens)], keys, scale).softmax(-1)[..., own + text :].mean(0)
    pieces = query[:, text:].split(PIECE, 1)
    to_tokens = [_scores(piece, keys, scale).softmax(-1)[..., columns].mean(0) for piece in pieces]
    return to_image, torch.cat(to_tokens).T


def _scores(query: Tensor, keys: Tensor, scale: float | None) -> Tensor:
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    return query.float() * scale @ keys.float().transpose(-1, -2)


class ExtendedAttention:
    """What the attention layers of a transformer do while source and target are denoised together.

    Set before every call: `layers` are extended with weight `gamma`, `recorded` add the maps of `tokens` to `seen`, as
    (to the image, from the image) in order of the calls, `measured` add their `text_masses` to `masses`.

    Args:
        modules: Attention modules by name.
        attention: All modules with an attention processor, for their kernels.
        text: How many positions are the text's.
        tokens: Of the subject.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], attention: Collection[nn.Module], text: int, tokens: Sequence[int]
    ) -> None:
        self.modules, self.attention, self.text, self.tokens = dict(modules), attention, text, list(tokens)
        self.gamma = 1.0
        self.layers: frozenset[str] = frozenset()
        self.recorded: frozenset[str] = frozenset()
        self.measured: frozenset[str] = frozenset()
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.masses: list[tuple[Tensor, Tensor]] = []
        self.thread = threading.get_ident()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wraps the modules' forwards and puts everything back on any exit."""
        own = {name: vars(module).get("forward") for name, module in self.modules.items()}
        self.thread = threading.get_ident()
        try:
            for name, module in self.modules.items():
                module.forward = self._wrapped(name, module.forward)
            with native_attention(self.attention):
                yield
        finally:
            for name, module in self.modules.items():
                vars(module).pop("forward", None)
                if (forward := own[name]) is not None:
                    module.forward = forward

    def _wrapped(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            idle = name not in self.layers | self.recorded | self.measured
            if idle or threading.get_ident() != self.thread:  # another pipeline shares the transformer
                return forward(*args, **kwargs)
            with _Attending(self, name):
                return forward(*args, **kwargs)

        return wrapper

    def attend(self, name: str, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """The attention of a layer in a call of source and target, or of the target alone."""
        is_extended = name in self.layers
        keys = extended(key, value, self.text, self.gamma)[0][0] if is_extended else key[-1]
        if name in self.recorded:
            maps = token_maps(query[-1], keys, self.tokens, self.text, scale)
            self.seen.setdefault(name, []).append(maps)
        if name in self.measured:
            self.masses.append(text_masses(query[-1, :, : self.text], keys, keys.shape[1] - key.shape[2], scale))
        if is_extended:
            return extended_attention(query, key, value, self.text, self.gamma, scale)
        return F.scaled_dot_product_attention(query, key, value, scale=scale)


class _Attending(TorchFunctionMode):
    """Replaces the first scaled-dot-product attention under it; later ones are image prompts'."""

    def __init__(self, attention: ExtendedAttention, name: str) -> None:
        super().__init__()
        self.attention, self.name, self.done = attention, name, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or self.done:
            return func(*args, **kwargs)
        self.done = True
        query, key, value, _, scale = attention_arguments(args, kwargs)
        return self.attention.attend(self.name, query, key, value, scale)
