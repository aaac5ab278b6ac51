import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.layout import Layout
from attncontrol.losses import BoxDiff, Evaluation
from attncontrol.losses.boxdiff import boxdiff_terms
from tests.golden import golden_cases
from tests.losses.inputs import context, evaluate, mean_cross
from tests.losses.layouts import (
    LEFT,
    RIGHT,
    boxes,
    captured,
    denoiser_maps,
    loss_and_gradients,
    moves,
    placed,
    sampling,
)


def published(case):
    """The method and its context for a case: one entity per token, one box each."""
    inputs, kwargs = case["inputs"], case["kwargs"]
    method = BoxDiff(
        variant="reference",
        top_fraction=kwargs["P"],
        corner_width=kwargs["L"],
        smoothing=kwargs["smooth_attentions"],
        sigma=kwargs["sigma"],
        kernel_size=kwargs["kernel_size"],
        normalize_eot=kwargs["normalize_eot"],
    )
    layout = Layout(tuple((tuple(box),) for box in inputs["boxes"]))
    groups = [[token] for token in inputs["token_indices"]]
    return method, context(groups, n_tokens=kwargs["n_prompt_tokens"] or 77, layout=layout)


def terms_of(method, attention, now):
    return method.terms(attention[None], [now])[0]


def close(value):
    return pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("case", golden_cases("boxdiff"))
def test_published_terms(case):
    method, now = published(case)
    attention = case.tensor("cross", requires_grad=True)
    terms, expected = terms_of(method, attention, now), case["outputs"]
    for name in ("inner", "outer", "corner_x", "corner_y"):
        assert getattr(terms, name).tolist() == close(expected[name]), name
    total = terms.total.sum()
    assert total.item() == close(expected["total"])
    assert terms.inner.max().item() == close(expected["loss_fg"])
    for loss, name in ((total, "grad_cross"), (terms.inner.max(), "grad_cross_loss_fg")):
        (grad,) = torch.autograd.grad(loss, attention, retain_graph=True)
        expected_grad = case.tensor(name)
        atol = max(1e-7, 1e-6 * expected_grad.abs().max().item())  # rounding where the softmax saturates
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=atol)


def test_default_agrees_with_the_reference_where_nothing_is_repaired():
    maps, now = denoiser_maps(), placed(([1], [LEFT]), ([4], [RIGHT]))
    losses = [
        evaluate(BoxDiff(variant=v), captured(BoxDiff(), maps), now).loss.item() for v in ("default", "reference")
    ]
    assert losses[0] == losses[1]


def test_reference_refines_the_worst_box_and_then_the_inner_terms_alone():
    maps = captured(BoxDiff(), denoiser_maps())
    attention = maps.layers[0].probabilities
    method = BoxDiff(variant="reference")
    now = placed(([1], [LEFT]), ([4], [RIGHT]))
    terms = terms_of(method, mean_cross(maps, (8, 8)), now)
    first = evaluate(method, maps, now)
    after = evaluate(method, maps, dataclasses.replace(now, refinements=3))
    expected = {first.loss: terms.total.sum(), first.objective: terms.inner.max(), after.loss: terms.inner.sum()}
    for loss, same in expected.items():
        grads = [torch.autograd.grad(x, attention, retain_graph=True)[0] for x in (loss, same)]
        torch.testing.assert_close(*grads)
    assert after.loss.item() == pytest.approx(terms.total.sum().item())
    assert first.monitor == pytest.approx(terms.inner.max().item())
    assert (after.objective - first.objective).abs() < 1e-6


def test_default_always_descends_the_whole_loss():
    maps, now = captured(BoxDiff(), denoiser_maps()), placed(([1], [LEFT]), ([4], [RIGHT]), refinements=3)
    evaluation = evaluate(BoxDiff(), maps, now)
    assert evaluation.objective is None
    attention = maps.layers[0].probabilities
    whole = terms_of(BoxDiff(), mean_cross(maps, (8, 8)), now).total.sum()
    torch.testing.assert_close(*(torch.autograd.grad(x, attention)[0] for x in (evaluation.loss, whole)))


def test_refinement_tests_the_value_before_each_move():
    worst = [0.99, 0.98, 0.6, 0.4]
    now = placed(([1], [LEFT]), index=10, count=50)
    steps = moves(BoxDiff(), now, lambda n: Evaluation(torch.tensor(0.0), monitor=worst[n]))
    size = 20 * math.sqrt(1 - 0.5 * 10 / 49)
    assert steps == pytest.approx([0, size, size, size, size])
    assert len(moves(BoxDiff(), now, lambda n: Evaluation(torch.tensor(0.0), monitor=1.0))) == 21
    assert moves(BoxDiff(), now, lambda n: Evaluation(torch.tensor(0.0), monitor=0.5)) == [0]
    assert moves(BoxDiff(thresholds={}), now, lambda n: Evaluation(torch.tensor(0.0), monitor=1.0)) == []


def test_refined_steps():
    unsatisfied = sampling(BoxDiff(), 50, lambda n: Evaluation(torch.tensor(0.0), monitor=1.0))
    assert {i: len(s) for i, s in unsatisfied.items()} == {0: 20, 10: 20, 20: 20}


def test_plain_updates_fill_the_window():
    steps = [BoxDiff().plain_step_size(placed(([1], [LEFT]), index=i, count=50)) for i in range(50)]
    assert [i for i, s in enumerate(steps) if s] == list(range(25))
    assert (steps[0], steps[24]) == pytest.approx((20, 20 * math.sqrt(1 - 0.5 * 24 / 49)))


def test_corner_terms_look_at_the_edges_of_every_box():
    maps = torch.zeros(1, 8, 8)
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 2:4, 1:3] = masks[0, 2:4, 6:8] = True
    terms = boxdiff_terms(maps, masks, [[(1, 2, 3, 4), (6, 2, 8, 4)]], corner_width=0)
    # columns 1, 3, 6 (8 lies outside) of which 1 and 6 are inside; rows 2, 4 of which 2 is inside
    assert (terms.corner_x.item(), terms.corner_y.item()) == (2 / 8, 1 / 8)


def test_several_boxes_are_one_region():
    halves = [(0.0, 0.0, 0.25, 1.0), (0.25, 0.0, 0.5, 1.0)]
    attention = mean_cross(captured(BoxDiff(), denoiser_maps()), (8, 8))
    apart, whole = (terms_of(BoxDiff(), attention, placed(([1], own))) for own in (halves, [(0.0, 0.0, 0.5, 1.0)]))
    assert apart.inner == whole.inner and apart.outer == whole.outer
    assert apart.corner_x > whole.corner_x


def test_mask_acts_as_the_box_it_fills():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 8:32] = True
    attention = mean_cross(captured(BoxDiff(), denoiser_maps()), (8, 8))
    by_mask, by_box = (
        terms_of(BoxDiff(), attention, placed(([1], [r]))).total for r in (mask, (0.125, 0.25, 0.5, 0.75))
    )
    assert by_mask == by_box


def test_tiny_and_full_boxes_are_nan_in_the_reference_only():
    maps = denoiser_maps()
    for box in ((0.51, 0.51, 0.52, 0.52), (0.0, 0.0, 1.0, 1.0)):
        now = placed(([1], [box]))
        default, gradients = loss_and_gradients(BoxDiff(), maps, now)
        assert default.loss.isfinite() and all(g.isfinite().all() for g in gradients)
        reference = BoxDiff(variant="reference")
        assert evaluate(reference, captured(reference, maps), now).loss.isnan()


def test_entity_without_box_takes_no_part():
    maps = captured(BoxDiff(), denoiser_maps())
    alone, beside = (
        evaluate(BoxDiff(), maps, now).loss for now in (placed(([1], [LEFT])), placed(([1], [LEFT]), ([4], [])))
    )
    assert alone == beside


def test_pieces_of_a_noun_are_averaged_or_subjects_of_their_own():
    attention = mean_cross(captured(BoxDiff(), denoiser_maps()), (8, 8))
    one, two, three = placed(([[1, 2]], [LEFT])), placed(([1], [LEFT])), placed(([2], [LEFT]))
    reference = BoxDiff(variant="reference")
    torch.testing.assert_close(
        terms_of(reference, attention, one).total.sum(),
        terms_of(reference, attention, two).total[0] + terms_of(reference, attention, three).total[0],
    )
    assert len(terms_of(BoxDiff(), attention, one).inner) == 1


@pytest.mark.parametrize("variant", ["default", "reference"])
def test_nan_in_maps_does_not_raise(variant):
    maps, method = denoiser_maps(), BoxDiff(variant=variant)
    with torch.no_grad():
        for m in maps.layers:
            m.probabilities[:, 3] = torch.nan
    assert evaluate(method, captured(method, maps), placed(([1], [LEFT]))).loss.isnan()


@pytest.mark.parametrize(
    ("settings_", "message"),
    [({"top_fraction": 0}, "top_fraction must"), ({"corner_width": -1}, "corner_width must be finite and at least 0")],
)
def test_bad_settings(settings_, message):
    with pytest.raises(ValueError, match=message):
        BoxDiff(**settings_)


layouts = st.lists(st.lists(boxes, min_size=1, max_size=3), min_size=1, max_size=3)


@given(layouts, st.integers(0, 1000), st.floats(0.01, 1), st.integers(0, 3), st.data())
def test_bounds_gradients_and_order(regions, seed, fraction, width, data):
    maps, method = denoiser_maps(seed), BoxDiff(top_fraction=fraction, corner_width=width)
    entities = [([2 * i + 1], own) for i, own in enumerate(regions)]
    now = placed(*entities)
    result, gradients = loss_and_gradients(method, maps, now)
    assert all(g.isfinite().all() for g in gradients)
    own = captured(method, maps)
    terms = terms_of(method, mean_cross(own, (8, 8)), now)
    for term in (terms.inner, terms.outer, terms.corner_x, terms.corner_y):
        assert (term >= -1e-5).all() and (term <= 1 + 1e-5).all()
    shuffled = [(words, data.draw(st.permutations(own))) for words, own in data.draw(st.permutations(entities))]
    torch.testing.assert_close(evaluate(method, own, placed(*shuffled)).loss, result.loss)
