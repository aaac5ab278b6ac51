"""Attention probabilities, all of them or of some keys alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def attention_probabilities(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """softmax(scale * query @ key^T + mask) in float32: [..., heads, queries, keys] from [..., heads, n, dim].

    A boolean mask keeps where it is True; `scale` defaults to 1 / sqrt(dim).
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query.float() * scale) @ key.float().transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask.float()
    return scores.softmax(-1)


def column_probabilities(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None, columns: slice
) -> Tensor:
    """The `attention_probabilities` of some keys: [..., heads, queries, columns]; differentiable once."""
    return _Columns.apply(query, key, mask, 1 / math.sqrt(query.shape[-1]) if scale is None else scale, columns)


class _Columns(torch.autograd.Function):
    """Some columns C of a softmax P over all keys K, without a gradient of all columns.

    With the gradient G of P_C, and r = sum(G * P_C) over C, that of the scores is P_C * G in C less r P everywhere. So
    that of the queries is scale * ((P_C * G) K_C - r (P K)), and the keys' likewise.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, mask: Tensor | None, scale: float, columns: slice) -> Tensor:
        probabilities = attention_probabilities(query, key, mask, scale)
        ctx.save_for_backward(query, key, probabilities)
        ctx.scale, ctx.columns = scale, columns
        return probabilities[..., columns].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        query, key, probabilities = ctx.saved_tensors
        queries, keys, columns = ctx.scale * query.float(), ctx.scale * key.float(), ctx.columns
        own = probabilities[..., columns] * gradient
        total = own.sum(-1, keepdim=True)
        of_queries = own @ keys[..., columns, :] - total * (probabilities @ keys)
        of_keys = probabilities.transpose(-1, -2) @ (-total * queries)
        of_keys[..., columns, :] += own.transpose(-1, -2) @ queries
        return of_queries.to(query.dtype), of_keys.to(key.dtype), None, None, None
