"""Attention maps and the few operations every method applies to them. Pure torch, float32."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attncontrol.attention.layers import PLACES, Layer, Size

EVERY = slice(None)
PIECE = 2**26  # most probabilities that are computed at a time where they are not kept: 256 MiB in float32
KEPT = 2**23  # most probabilities of a layer that the backward pass finds kept on a CPU: 32 MiB


@dataclass(frozen=True)
class Deferred:
    """Attention probabilities of `shape` [images, heads, queries, keys], computed for some of them at a time.

    `compute(images, queries)` gives them in float32 on `device`, of the keys only those that the layer's maps show.
    """

    shape: tuple[int, int, int, int]
    compute: Callable[[slice | Tensor, slice], Tensor]
    device: torch.device = torch.device("cpu")

    def rows(self, images: Tensor) -> Deferred:
        """Those of some images, by their index."""
        shape = (len(images), *self.shape[1:])
        return Deferred(shape, lambda own, queries: self.compute(images[own], queries), self.device)


@dataclass(frozen=True)
class LayerMap:
    """The attention probabilities of one layer for all images of a batch: given, or computed when asked for."""

    layer: Layer
    attention: Tensor | Deferred

    @property
    def probabilities(self) -> Tensor:
        """float32 [images, heads, height * width, keys], every row of sum 1.

        Keys are text positions (cross-attention, start of text = 0) or pixels in row-major order (self-attention).
        Deferred ones are large and computed at every access: see `reduce`.
        """
        return self.attention if isinstance(self.attention, Tensor) else self.attention.compute(EVERY, EVERY)

    def of_text(self) -> LayerMap:
        """The map with every row divided by its sum, where it was computed over further keys than the text's."""
        if isinstance(self.attention, Tensor) or not self.layer.is_cross:
            return self
        deferred = self.attention

        def compute(images: slice | Tensor, queries: slice) -> Tensor:
            probabilities = deferred.compute(images, queries)
            return probabilities / probabilities.sum(-1, keepdim=True).clamp_min(torch.finfo(probabilities.dtype).tiny)

        return LayerMap(self.layer, dataclasses.replace(deferred, compute=compute))

    def reduce(self, function: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Reduces the probabilities of all images without keeping them where they are deferred.

        Args:
            function: function(probabilities [some images, heads, queries, keys], which images) -> [some images, ...].
                Deferred probabilities are given to it some images at a time, computed again in the backward pass.

        Returns:
            Its results, joined along their first axis: [images, ...].
        """
        if isinstance(self.attention, Tensor):
            return function(self.attention, EVERY)
        deferred = self.attention

        def reduced(images: slice) -> Tensor:
            return function(deferred.compute(images, EVERY), images)

        return _joined(reduced, _pieces(deferred.shape[0], math.prod(deferred.shape[1:])), 0)

    def of_tokens(self, tokens: Sequence[tuple[int, int]]) -> Tensor:
        """The head maps of some tokens, an image and a position each: [tokens, heads, height * width].

        Deferred ones are computed some queries at a time, again in the backward pass.
        """
        if isinstance(self.attention, Tensor):
            images, positions = index_tensor(tokens, self.attention.device).reshape(-1, 2).T
            return self.attention[images, :, :, positions]
        deferred = self.attention

        def chosen(queries: slice) -> Tensor:
            probabilities = deferred.compute(EVERY, queries)
            images, positions = index_tensor(tokens, probabilities.device).reshape(-1, 2).T
            return probabilities[images, :, :, positions]

        count, heads, queries, keys = deferred.shape
        return _joined(chosen, _pieces(queries, count * heads * keys), 2)

    @property
    def _is_small(self) -> bool:
        """Whether deferred probabilities are so few that it is quicker to keep them than to compute them again."""
        deferred = self.attention
        return deferred.device.type == "cpu" and math.prod(deferred.shape) <= min(KEPT, PIECE)

    def head_sum(self) -> Tensor:
        """The sum of all head maps: [images, height * width, keys], deferred ones some at a time."""
        if isinstance(self.attention, Tensor):
            return self.attention.sum(1)
        deferred = self.attention
        images, heads, queries, keys = deferred.shape
        if self._is_small:  # those of an image stay in a core's cache
            return torch.cat([deferred.compute(slice(i, i + 1), EVERY).sum(1) for i in range(images)])
        parts = []
        for rows in _pieces(images, heads * queries * keys):

            def summed(some: slice, rows: slice = rows) -> Tensor:
                return deferred.compute(rows, some).sum(1)

            parts.append(_joined(summed, _pieces(queries, len(range(images)[rows]) * heads * keys), 1))
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def _pieces(length: int, size: int) -> list[slice]:
    """Slices of 0 .. length whose parts, each of `size` numbers, stay below `PIECE` together, or have one part."""
    step = max(PIECE // size, 1)
    if step >= length:
        return [EVERY]
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def _joined(function: Callable[[slice], Tensor], pieces: Sequence[slice], axis: int) -> Tensor:
    """The results for all pieces; what they are made of is computed again in the backward pass."""
    results = [checkpoint(function, piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    return torch.cat(results, axis) if len(results) > 1 else results[0]


@dataclass(frozen=True)
class AttentionMaps:
    """All layers captured in one guided forward, for all images of its batch, in order of execution."""

    layers: tuple[LayerMap, ...]

    def of(self, layers: Sequence[Layer], keys: str = "joint") -> AttentionMaps:
        """The maps of these layers only; with `keys="text"` those of joint attention as shares of the text alone."""
        names = {layer.name for layer in layers}
        chosen = (m for m in self.layers if m.layer.name in names)
        return AttentionMaps(tuple(m.of_text() if keys == "text" else m for m in chosen))

    def rows(self, images: Sequence[int]) -> AttentionMaps:
        """The maps of some images only."""

        def chosen(attention: Tensor | Deferred) -> Tensor | Deferred:
            if isinstance(attention, Tensor):
                return attention[index_tensor(images, attention.device)]
            return attention.rows(torch.tensor(images))

        return AttentionMaps(tuple(LayerMap(m.layer, chosen(m.attention)) for m in self.layers))

    def cross(self, size: Size | None = None) -> list[LayerMap]:
        """Cross-attention layers, only those with `size` = (height, width) queries if given."""
        return [m for m in self.layers if m.layer.is_cross and size in (None, m.layer.size)]

    def self_attention(self, size: Size | None = None) -> list[LayerMap]:
        """Self-attention layers, only those with `size` = (height, width) queries if given."""
        own = [m for m in self.layers if not m.layer.is_cross and not m.layer.is_grounding]
        return [m for m in own if size in (None, m.layer.size)]

    def grounding(self, size: Size | None = None) -> list[LayerMap]:
        """Attention of GLIGEN's gates, only that with `size` = (height, width) queries if given.

        Queries and keys are the pixels and behind them 30 tokens, those of the layout's boxes first.
        """
        return [m for m in self.layers if m.layer.is_grounding and size in (None, m.layer.size)]

    def mean_cross(self, size: Size) -> Tensor:
        """Mean of all head maps of the cross-attention layers of `size`: [images, height, width, text positions].

        Heads weigh equally, not layers; layers enter in the order up, down, mid (docs/methods/attend_and_excite.md,
        section 2).
        """
        chosen = sorted(self.cross(size), key=lambda m: PLACES.index(m.layer.place))
        if not chosen:
            raise ValueError(f"no cross-attention layer of size {size} was captured")
        heads = sum(m.attention.shape[1] for m in chosen)
        total = chosen[0].head_sum()
        for layer in chosen[1:]:
            total = total + layer.head_sum()
        return total.unflatten(1, size) / heads


@dataclass(frozen=True)
class Owners:
    """Which image of a batch every entry of a flat list belongs to, for reductions over an image's own entries."""

    images: tuple[int, ...]
    count: int

    def padded(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Entries [entries, ...] in columns, one an image, filled up below: [most entries of an image, images, ...].

        There is one more column of nothing but filling: a sum over the first axis takes the entries in their order
        then, however many images there are.
        """
        columns: list[list[int]] = [[] for _ in range(self.count + 1)]
        for entry, image in enumerate(self.images):
            columns[image].append(entry)
        most = max(1, *map(len, columns))
        index = [[column[i] if i < len(column) else len(self.images) for column in columns] for i in range(most)]
        filling = values.new_full((1, *values.shape[1:]), fill)
        return torch.cat([values, filling])[index_tensor(index, values.device)]

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every image's entries: [entries, ...] -> [images, ...], 0 where there are none."""
        return self.padded(values).sum(0)[: self.count]

    def mean(self, values: Tensor) -> Tensor:
        """The mean of every image's entries: [entries, ...] -> [images, ...], 0 where there are none."""
        counts = torch.tensor([float(max(self.images.count(image), 1)) for image in range(self.count)])
        counts = counts.reshape(-1, *[1] * (values.ndim - 1))
        return self.sum(values) / on_device(counts.to(values.dtype), values.device)

    def largest(self, values: Tensor, none: float = 0.0) -> Tensor:
        """The largest of every image's entries, `none` where there are none: [entries] -> [images].

        Of equal ones the first has the gradient.
        """
        columns = self.padded(values, -math.inf)[:, : self.count]
        largest = columns.gather(0, columns.argmax(0, keepdim=True))[0]
        missing = [image not in self.images for image in range(self.count)]
        return largest.masked_fill(on_device(torch.tensor(missing), values.device), none) if any(missing) else largest


def resoftmax(attention: Tensor, spans: Sequence[Sequence[slice]], scale: float | Tensor = 100.0) -> Tensor:
    """Softmax over text positions of mean maps (docs/methods/attend_and_excite.md, section 3).

    Args:
        attention: [images, height, width, positions].
        spans: The slices of positions of every image, each of which has a softmax of its own.
        scale: What the attention is multiplied by first.

    Returns:
        [images, height, width, positions], 0 at the positions outside every span.
    """
    positions = attention.shape[-1]
    inside = np.zeros((max(map(len, spans)), len(spans), 1, 1, positions), dtype=bool)
    for image, own in enumerate(spans):
        for number, span in enumerate(own):
            inside[number, image, ..., span] = True
    scaled, lowest = attention * scale, torch.finfo(attention.dtype).min
    masks = on_device(torch.from_numpy(inside), attention.device).unbind()
    parts = [scaled.masked_fill(~mask, lowest).softmax(-1) * mask for mask in masks]
    return sum(parts[1:], parts[0])


def token_means(attention: Tensor, groups: Sequence[tuple[int, Sequence[int]]], text: Sequence[slice] = ()) -> Tensor:
    """The mean map of every group, an image and positions there.

    Args:
        attention: [images, height, width, positions].
        groups: An image and at least one position each.
        text: The positions of several text encoders. Then it is the mean of their means: each weighs alike, however
            many pieces it breaks a word into.

    Returns:
        [groups, height, width].
    """
    if not groups:
        return attention.new_zeros(0, *attention.shape[1:3])
    length = max(len(positions) for _, positions in groups)
    images = index_tensor([[image] for image, _ in groups], attention.device)
    chosen = [[*own, *[own[0]] * (length - len(own))] for _, own in groups]
    maps = attention[images, :, :, index_tensor(chosen, attention.device)]
    shares = [_shares(own, text, attention.shape[-1], length) for _, own in groups]
    weights = on_device(torch.tensor(shares, dtype=attention.dtype), attention.device)
    return (maps * weights[..., None, None]).sum(1)


def head_means(layer: LayerMap, groups: Sequence[tuple[int, Sequence[int]]], text: Sequence[slice]) -> Tensor:
    """`token_means` of every head of a layer by itself: [groups, heads, height * width]."""
    tokens = [(image, position) for image, own in groups for position in own]
    width = layer.attention.shape[-1]
    shares = torch.tensor([share for _, own in groups for share in _shares(own, text, width, len(own))])
    maps = layer.of_tokens(tokens)
    owners = Owners(tuple(number for number, (_, own) in enumerate(groups) for _ in own), len(groups))
    return owners.sum(maps * on_device(shares, maps.device)[:, None, None])


def _shares(group: Sequence[int], text: Sequence[slice], width: int, length: int) -> list[float]:
    """How much each position of a group weighs in its mean, filled up with zeros to `length`."""
    parts = [[i for i in group if i in range(*span.indices(width))] for span in text] if len(text) > 1 else []
    parts = [part for part in parts if part] or [list(group)]
    shares = {i: 1 / (len(parts) * len(part)) for part in parts for i in part}
    return [*(shares.get(i, 0.0) for i in group), *[0.0] * (length - len(group))]


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
    """The smoothing kernel of Attend-and-Excite (docs/methods/attend_and_excite.md, section 4).

    Its exponent is ((x - m) / (2 sigma))^2, without the usual factor: the true standard deviation is sigma * sqrt(2).
    Built in float32 and cast, as the published code does.

    Args:
        kernel_size: Its side k, in cells.
        sigma: In cells.
        like: Whose dtype and device it gets.

    Returns:
        [k, k], sum 1.
    """
    x = torch.arange(kernel_size, dtype=torch.float32, device="cpu") - (kernel_size - 1) / 2
    weights = torch.exp(-((x / (2 * sigma)) ** 2))
    kernel = torch.outer(weights, weights)
    return on_device(kernel / kernel.sum(), like.device).to(like.dtype)


def smooth(maps: Tensor, kernel_size: int = 3, sigma: float = 0.5, padding: int | None = None) -> Tensor:
    """Gaussian smoothing of maps with reflected borders.

    Args:
        maps: [..., height, width].
        kernel_size: Side of the kernel, in cells.
        sigma: See `gaussian_kernel`.
        padding: Cells added on every side; None keeps the size, the published code always adds 1
            (docs/methods/attend_and_excite.md, section 8).

    Returns:
        [..., height, width], of another size with a `padding` other than the kernel's.
    """
    kernel = gaussian_kernel(kernel_size, sigma, maps)[None, None]
    pad = (kernel_size - 1) // 2 if padding is None else padding
    if pad >= min(maps.shape[-2:]):
        raise ValueError(f"a smoothing kernel of {kernel_size} is too large for maps of {tuple(maps.shape[-2:])}")
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    smoothed = F.conv2d(F.pad(flat, (pad,) * 4, mode="reflect"), kernel)
    return smoothed.reshape(*maps.shape[:-2], *smoothed.shape[-2:])
