"""What the tests of the layout methods share: maps as a denoiser gives them, entities with regions, and the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap
from attncontrol.layout import Layout
from attncontrol.losses import Context, Evaluation, Method
from tests.losses.inputs import context, evaluate

LEFT, RIGHT = (0.05, 0.2, 0.45, 0.8), (0.55, 0.25, 0.95, 0.9)
boxes = st.tuples(*(st.floats(0, 0.9) for _ in range(2)), *(st.floats(0.01, 1) for _ in range(2))).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], 1.0), min(b[1] + b[3], 1.0))
)


def denoiser_maps(seed: int = 0, size: tuple[int, int] = (8, 8), heads: int = 2, tokens: int = 12) -> AttentionMaps:
    """Random maps of a middle block of half the size and an up block of `size`, each with self-attention; leaves."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for place, (h, w) in (("mid", (size[0] // 2, size[1] // 2)), ("up", size)):
        for is_cross in (True, False):
            logits = torch.randn(heads, h * w, tokens if is_cross else h * w, generator=generator)
            layer = Layer(f"{place}.{'attn2' if is_cross else 'attn1'}", place, is_cross, (h, w))
            layers.append(LayerMap(layer, torch.softmax(3 * logits, -1).requires_grad_()))
    return AttentionMaps(tuple(layers))


def captured(method: Method, maps: AttentionMaps) -> AttentionMaps:
    """Those of the layers that the method asks for."""
    wanted = method.select_layers([m.layer for m in maps.layers])
    return AttentionMaps(tuple(m for m in maps.layers if m.layer in wanted))


def placed(*entities: tuple[Sequence[Any], Sequence[Any]], **known: Any) -> Context:
    """A context with these entities, each as its words (noun last) and its regions."""
    layout = Layout(tuple(tuple(regions) for _, regions in entities))
    return context([words for words, _ in entities], n_tokens=12, layout=layout, **known)


def loss_and_gradients(method: Method, maps: AttentionMaps, now: Context) -> tuple[Evaluation, list[torch.Tensor]]:
    """An evaluation and its gradients with respect to the captured layers."""
    own = captured(method, maps)
    evaluation = evaluate(method, own, now)
    return evaluation, list(torch.autograd.grad(evaluation.loss, [m.probabilities for m in own.layers]))


def moves(method: Method, now: Context, evaluate: Callable[[int], Evaluation]) -> list[float]:
    """The step sizes a refinement asks for, 0 for a look; `evaluate` is given the number of moves made before."""
    refinement, steps = method.refine(now), []
    step = next(refinement, None)
    while step is not None:
        steps.append(step)
        evaluation = evaluate(sum(s > 0 for s in steps) - (step > 0))
        try:
            step = refinement.send(evaluation)
        except StopIteration:
            step = None
    return steps


def sampling(
    method: Method, count: int, evaluate: Callable[[int], Evaluation], **known: Any
) -> dict[int, list[float]]:
    """The moves of every iteration that has any."""
    steps = {i: moves(method, placed(([1], [LEFT]), index=i, count=count, **known), evaluate) for i in range(count)}
    return {i: [s for s in own if s > 0] for i, own in steps.items() if any(own)}
