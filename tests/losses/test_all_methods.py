"""What every method must stand, one table of methods by one table of prompts and maps."""

import dataclasses

import pytest
import torch

from attncontrol.attention.maps import AttentionMaps, LayerMap
from attncontrol.layout import Layout
from attncontrol.losses import create_method, method_classes
from tests.losses.inputs import context, evaluate
from tests.losses.layouts import LEFT, RIGHT, captured, denoiser_maps

PROMPTS = {
    "one noun": ([[2]], 4),
    "two nouns": ([[2], [5]], 7),
    "modifiers": ([[2, 3], [6, 7, 8]], 10),
    "words of several tokens": ([[(2, 3), (4, 5)], [7]], 10),
    "no other token": ([[1, 2]], 4),
    "cut off modifier": ([[None, 2], [4]], 6),
    "cut off noun": ([[2, None], [4]], 6),
    "groups that share a modifier": ([[2, 3], [2, 5]], 8),
    "groups that share their nouns' tokens": ([[2, (3, 4)], [(4, 5)]], 8),
    "a noun that modifies another": ([[3], [3, 4]], 8),
}
MAPS = {
    "random": lambda p: p,
    "uniform": lambda p: torch.full_like(p, 1 / p.shape[-1]),
    "all on one token": lambda p: torch.nn.functional.one_hot(torch.full(p.shape[:2], 2), p.shape[-1]).float(),
    "zero": torch.zeros_like,
}


def changed(maps, change):
    layers = (LayerMap(m.layer, change(m.probabilities.detach()).requires_grad_()) for m in maps.layers)
    return AttentionMaps(tuple(layers))


def place(now):
    """The context with a region for every entity."""
    regions = tuple(((LEFT, RIGHT)[i % 2],) for i in range(len(now.prompt.entities)))
    return dataclasses.replace(now, layout=Layout(regions))


def setting(name, variant="default", groups=(), n_tokens=12, **known):
    method = create_method(name, variant=variant)
    now = context(groups, n_tokens, **known)
    return method, place(now) if method.needs_layout else now


methods = pytest.mark.parametrize("name", method_classes())
variants = pytest.mark.parametrize("variant", ["default", "reference"])


@pytest.mark.parametrize("prompt", PROMPTS)
@variants
@methods
def test_loss_and_gradient_are_finite(name, variant, prompt):
    method, now = setting(name, variant, *PROMPTS[prompt])
    method.check(now)
    for kind, change in MAPS.items():
        maps = captured(method, changed(denoiser_maps(), change))
        first = evaluate(method, maps, now)
        later = evaluate(method, maps, dataclasses.replace(now, index=1, carry=first.carry))
        for evaluation in (first, later):
            for value in (evaluation.loss, evaluation.objective):
                if value is None:
                    continue
                assert value.shape == (), kind
                assert value.dtype == torch.float32, kind
                assert value.isfinite(), kind
                if value.requires_grad:
                    leaves = [m.probabilities for m in maps.layers]
                    for grad in torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True):
                        assert grad is None or grad.isfinite().all(), kind
            assert not getattr(evaluation.carry, "requires_grad", False), kind


@variants
@methods
def test_nan_in_the_maps_makes_the_loss_or_the_gradient_so(name, variant):
    """The engine skips such an update."""
    method, now = setting(name, variant, [[2, 3], [5, 6]], 8)
    maps = captured(method, changed(denoiser_maps(), lambda p: p.index_fill(1, torch.tensor([0]), torch.nan)))
    evaluation = evaluate(method, maps, now)
    leaves = [m.probabilities for m in maps.layers]
    loss = evaluation.loss if evaluation.objective is None else evaluation.objective
    grads = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else []
    assert not (loss.isfinite() and all(g is None or g.isfinite().all() for g in grads))


@variants
@methods
def test_same_input_same_output(name, variant):
    method, now = setting(name, variant, [[2, 3], [5, 6]], 8)
    maps = captured(method, denoiser_maps())
    before = [m.probabilities.clone() for m in maps.layers]
    first, second = (evaluate(method, maps, now) for _ in range(2))
    assert first.loss == second.loss
    assert all(torch.equal(m.probabilities, b) for m, b in zip(maps.layers, before, strict=True))


@methods
def test_a_prompt_without_entities(name):
    method, now = setting(name)
    if method.needs_layout:
        with pytest.raises(ValueError, match="no box for any entity"):
            method.check(now)
    else:
        method.check(now)
        assert method.focus(now) == []


@methods
def test_nothing_is_asked_for_after_the_window(name):
    method, last = setting(name, groups=[[2, 3], [5]], n_tokens=8, index=49)
    if method.stop < 1:
        assert method.plain_step_size(last) == 0
        assert list(method.refine(last)) == []
