"""Attention maps and the few operations every method applies to them. Pure torch, float32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attncontrol.attention.layers import PLACES, Layer, Size


@dataclass(frozen=True)
class LayerMap:
    """The attention probabilities of one layer for one image: given, or a function that computes them."""

    layer: Layer
    attention: Tensor | Callable[[], Tensor]

    @property
    def probabilities(self) -> Tensor:
        """float32 [heads, height * width, keys], every row of sum 1.

        Keys are text positions (cross-attention, start of text = 0) or pixels in row-major order (self-attention).
        Those of self-attention are large and computed at every access: see `reduce`.
        """
        return self.attention if isinstance(self.attention, Tensor) else self.attention()

    def of_text(self) -> LayerMap:
        """The map with every row divided by its sum, where it was computed over further keys than the text's."""
        if isinstance(self.attention, Tensor) or not self.layer.is_cross:
            return self
        return LayerMap(self.layer, functools.partial(_rows_of_sum_1, self.attention))

    def reduce(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """function(probabilities); where they are computed, they are again in the backward pass and never kept."""
        if isinstance(self.attention, Tensor):
            return function(self.attention)
        return checkpoint(lambda: function(self.attention()), use_reentrant=False, preserve_rng_state=False)


def _rows_of_sum_1(attention: Callable[[], Tensor]) -> Tensor:
    probabilities = attention()
    return probabilities / probabilities.sum(-1, keepdim=True).clamp_min(torch.finfo(probabilities.dtype).tiny)


@dataclass(frozen=True)
class AttentionMaps:
    """All layers captured in one guided forward, for one image, in order of execution."""

    layers: tuple[LayerMap, ...]

    def of(self, layers: Sequence[Layer], keys: str = "joint") -> AttentionMaps:
        """The maps of these layers only; with `keys="text"` those of joint attention as shares of the text alone."""
        names = {layer.name for layer in layers}
        chosen = (m for m in self.layers if m.layer.name in names)
        return AttentionMaps(tuple(m.of_text() if keys == "text" else m for m in chosen))

    def cross(self, size: Size | None = None) -> list[LayerMap]:
        """Cross-attention layers, only those with `size` = (height, width) queries if given."""
        return [m for m in self.layers if m.layer.is_cross and size in (None, m.layer.size)]

    def self_attention(self, size: Size | None = None) -> list[LayerMap]:
        """Self-attention layers, only those with `size` = (height, width) queries if given."""
        return [m for m in self.layers if not m.layer.is_cross and size in (None, m.layer.size)]

    def mean_cross(self, size: Size) -> Tensor:
        """Mean of all head maps of the cross-attention layers of `size`: [height, width, text positions].

        Heads weigh equally, not layers; layers enter in the order up, down, mid (A&E spec, section 3).
        """
        chosen = sorted(self.cross(size), key=lambda m: PLACES.index(m.layer.place))
        if not chosen:
            raise ValueError(f"no cross-attention layer of size {size} was captured")
        return aggregate([m.probabilities for m in chosen], size)


def aggregate(layers: Sequence[Tensor], size: Size) -> Tensor:
    """Mean over the joint head axis of maps [heads, height * width, keys] -> [height, width, keys]."""
    height, width = size
    joined = torch.cat([layer.reshape(-1, height, width, layer.shape[-1]) for layer in layers])
    return joined.sum(0) / joined.shape[0]


def resoftmax(attention: Tensor, spans: Sequence[slice], scale: float = 100.0) -> Tensor:
    """Softmax of `scale` * attention over each span of text positions of [height, width, positions] by itself.

    The result has the same positions; those outside every span are 0 (A&E, section 4).
    """
    width = attention.shape[-1]
    parts = []
    for span in spans:
        first, last, _ = span.indices(width)
        probabilities = torch.softmax(attention[..., first:last] * scale, dim=-1)
        parts.append(F.pad(probabilities, (first, width - last)))
    return sum(parts[1:], parts[0])


def token_means(attention: Tensor, groups: Sequence[Sequence[int]], text: Sequence[slice] = ()) -> Tensor:
    """The mean map of every group of positions: [height, width, positions] -> [groups, height, width].

    With the positions `text` of several text encoders it is the mean of their means: each weighs alike, however many
    pieces it breaks a word into.
    """
    if not groups:
        return attention.new_zeros(0, *attention.shape[:2])
    split = [_by_encoder(group, text, attention.shape[-1]) for group in groups]
    means = [[attention[..., index_tensor(part, attention.device)].mean(-1) for part in parts] for parts in split]
    return torch.stack([torch.stack(parts).mean(0) if len(parts) > 1 else parts[0] for parts in means])


def _by_encoder(group: Sequence[int], text: Sequence[slice], width: int) -> list[list[int]]:
    """The positions of a group, those of each text encoder apart; all of them together if there is only one."""
    parts = [[i for i in group if i in range(*span.indices(width))] for span in text] if len(text) > 1 else []
    return [part for part in parts if part] or [list(group)]


def index_tensor(positions: Sequence[Any], device: torch.device) -> Tensor:
    """Positions, a list or lists of equal length, as an index on a device: int64."""
    return on_device(torch.tensor(positions, dtype=torch.long, device="cpu"), device)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A small constant of the computer's memory on a device, not to be changed in place.

    Equal ones are brought there once: each time, the program would wait for all work that the device was given.
    """
    if values.device == device or values.numel() == 0:
        return values.to(device)
    return _copy(values.contiguous().numpy().tobytes(), tuple(values.shape), values.dtype, device)


@functools.lru_cache(maxsize=1024)
def _copy(numbers: bytes, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # its tensors could not take part in autograd
        return torch.frombuffer(bytearray(numbers), dtype=dtype).reshape(shape).to(device)


def gaussian_kernel(kernel_size: int, sigma: float, like: Tensor) -> Tensor:
    """The [k, k] smoothing kernel of Attend-and-Excite, sum 1, in the dtype and on the device of `like`.

    Its exponent is ((x - m) / (2 sigma))^2, without the usual factor: the true standard deviation is
    sigma * sqrt(2). Built in float32 and cast, as the published code does (A&E, section 5).
    """
    x = torch.arange(kernel_size, dtype=torch.float32, device="cpu") - (kernel_size - 1) / 2
    weights = torch.exp(-((x / (2 * sigma)) ** 2))
    kernel = torch.outer(weights, weights)
    return on_device(kernel / kernel.sum(), like.device).to(like.dtype)


def smooth(maps: Tensor, kernel_size: int = 3, sigma: float = 0.5, padding: int | None = None) -> Tensor:
    """Gaussian smoothing of maps [..., height, width] with reflected borders.

    `padding` pixels are added on every side; None keeps the size, the published code always adds 1 (A&E,
    section 5).
    """
    kernel = gaussian_kernel(kernel_size, sigma, maps)[None, None]
    pad = (kernel_size - 1) // 2 if padding is None else padding
    if pad >= min(maps.shape[-2:]):
        raise ValueError(f"a smoothing kernel of {kernel_size} is too large for maps of {tuple(maps.shape[-2:])}")
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    smoothed = F.conv2d(F.pad(flat, (pad,) * 4, mode="reflect"), kernel)
    return smoothed.reshape(*maps.shape[:-2], *smoothed.shape[-2:])
