"""The judge of finished pictures: what it reads, where, and what it says of it."""

import dataclasses
import re

import pytest
import torch

from attncontrol import Conform, Ebama, LayoutGuidance, Redraw, SynGen
from attncontrol.families import family_of
from attncontrol.guidance.cost import method_cost
from attncontrol.losses.base import Reading
from tests.losses.inputs import alone, context, evaluate, one_layer
from tests.losses.layouts import LEFT, RIGHT, captured, denoiser_maps, placed
from tests.tiny_transformers import flux

PAIR = context([[2, 3], [5]], 8)


@pytest.mark.parametrize("variant", ["default", "reference"])
def test_its_loss_is_that_of_conform_between_equal_maps_and_that_of_syngen(variant):
    method = Redraw(variant=variant)
    maps = alone(captured(method, denoiser_maps()))
    earlier = Conform().evaluate(maps, [PAIR]).carries[0]
    apart = Conform(variant=variant).evaluate(maps, [dataclasses.replace(PAIR, carry=earlier)]).loss
    binding = SynGen(variant=variant).evaluate(maps, [PAIR]).loss
    assert apart > 0 and binding != 0 and method.evaluate(maps, [PAIR]).loss == apart + binding
    assert method.evaluate(maps, [PAIR]).carries is None


def test_two_things_without_attributes_are_told_apart():
    one, other = (torch.zeros(8, 8, 8) for _ in range(2))
    for attention, frog in ((one, 0), (other, 7)):
        attention[0, 0, 2] = attention[0, frog, 5] = 1.0
    same, different = (evaluate(Redraw(), one_layer(maps), context([[2], [5]], 8)).loss for maps in (one, other))
    assert same > 3 * different > 0


def test_it_is_judged_by_the_methods_it_is_told_on_the_layers_of_each():
    everything = [m.layer for m in denoiser_maps().layers]
    now = placed(([2, 3], [LEFT]), ([5], [RIGHT]))
    for by, others in (
        ("ebama", [(1.0, Ebama())]),
        ("0.5*ebama + 2*layout-guidance", [(0.5, Ebama()), (2.0, LayoutGuidance())]),
    ):
        method = Redraw(by=by)
        assert [layer.name for layer in method.select_layers(everything)] == [
            layer.name for layer in everything if any(layer in m.select_layers(everything) for _, m in others)
        ]
        assert method.focus(now) == [group for _, m in others for group in m.focus(now)]
        maps = alone(captured(method, denoiser_maps()))
        expected = [w * m.evaluate(alone(captured(m, denoiser_maps())), [now]).loss for w, m in others]
        assert torch.equal(method.evaluate(maps, [now]).loss, sum(expected))
    with pytest.raises(ValueError, match="layout-guidance needs a layout"):
        method.check(PAIR)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("redraw", "redraw: by must name other methods, got 'redraw'"),
        ("conformm", "redraw: unknown method 'conformm', did you mean 'conform'"),
        ("conform +", "redraw: the control 'conform +' lacks a method"),
    ],
)
def test_what_it_cannot_be_judged_by_is_named(by, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Redraw(by=by)


@pytest.mark.parametrize(("at", "step"), [(0.8, 8), (0.0, 0), (0.999, 9)])
def test_it_looks_once_in_a_run_and_moves_nothing(at, step):
    method = Redraw(at=at)
    for index in range(10):
        now = context([[2], [5]], 8, index=index, count=10)
        looks = method.refine(now)
        assert next(looks, None) == (0.0 if index == step else None)
        if index == step:
            with pytest.raises(StopIteration):
                looks.send(Reading(1.0, 1.0))
        assert method.plain_step_size(now) == 0


def test_it_accepts_what_is_enough_and_nothing_unless_told_what():
    assert Redraw(enough=0.5).accepts(0.5) and not Redraw(enough=0.5).accepts(0.51)
    assert not Redraw().accepts(-100.0)
    assert Conform().accepts(100.0) and Conform().pictures == (1, 1)
    assert Redraw(tries=4).pictures == (4, 4) and Redraw(tries=4, enough=0.5).pictures == (1, 4)


def test_a_sum_has_one_judge():
    assert (Conform() + Redraw()).judge == Redraw() and (1.0 * Conform()).judge is None
    assert (Conform() + 0 * Redraw()).judge is None and (1.0 * Redraw(tries=1)).judge is None
    with pytest.raises(ValueError, match="one part that judges pictures, not 2: leave one redraw out"):
        _ = (Redraw() + Redraw(at=0.5)).judge


def test_with_a_step_it_guides_too():
    now = context([[2, 3], [5]], 8, index=0, count=10)
    assert Redraw(step_size=2.0).plain_step_size(now) == 2.0 and Redraw(relative_step=0.1).plain_step_size(now) == 0.1


def test_its_further_pictures_are_counted():
    family, grid = family_of(flux()), (8, 8)
    one, all_three, some = (
        method_cost(family, Redraw(**settings), grid, steps=10)
        for settings in ({"tries": 1}, {"tries": 3}, {"tries": 3, "enough": 0.5})
    )
    assert one.passes == (1, 1) and all_three.passes == (3, 3) and some.passes == (1, 3)
    look = one.fast.operations / one.plain.operations / 10
    assert one.arithmetic == (1 + look,) * 2 and some.arithmetic == (1 + look, 3 * (1 + look))
