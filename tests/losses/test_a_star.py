import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.attention.maps import Owners
from attncontrol.layout import Layout
from attncontrol.losses import AStar
from attncontrol.losses.a_star import binarize, retention_terms, spread
from tests.golden import golden_cases
from tests.losses.inputs import attentions, context, evaluate, gradient, one_layer, random_attention
from tests.losses.single import segregation_terms

GROUPS = [[2], [1, (4, 5)], [8]]
concept_maps = st.builds(
    lambda seed, n, size: torch.rand(n, *size, generator=torch.Generator().manual_seed(seed)).requires_grad_(),
    seed=st.integers(0, 2**31),
    n=st.integers(1, 5),
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
)


def prepared(method, attention, now):
    return method.concept_maps(attention[None], [now])[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", golden_cases("a_star"))
def test_values_from_the_formulas(case, dtype):
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    maps = case.tensor("maps").to(dtype).requires_grad_()
    masks = list(case.tensor("masks")) if "masks" in case else []

    def close(found, array):
        torch.testing.assert_close(found.detach().double(), case.tensor(array), check_dtype=False, **tolerance)

    close(segregation_terms(maps), "segregation_per_pair")
    if masks:
        close(retention_terms(maps, case.tensor("masks")), "retention_per_concept")
    for name, segregation, retention in (("segregation", 1, 0), ("retention", 0, 1), ("total", 1, 1)):
        method = AStar(segregation_weight=segregation, retention_weight=retention)
        loss = method.loss(maps, Owners((0,) * len(maps), 1), range(len(masks)), [m[None] for m in masks])[0]
        close(loss, name)
        close(gradient(loss, maps)[0], f"grad_{name}")


def test_order_of_the_pairs():
    maps = torch.rand(4, 3, 3)
    pairs = [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    expected = [segregation_terms(maps[list(pair)]).item() for pair in pairs]
    assert segregation_terms(maps).tolist() == pytest.approx(expected)


@given(concept_maps, st.randoms(use_true_random=False), st.sampled_from([0.01, 1.0, 300.0]))
def test_segregation_is_bounded_and_keeps_under_order_and_common_scale(maps, random, scale):
    terms = segregation_terms(maps)
    assert ((terms >= 0) & (terms <= 0.5)).all()
    order = list(range(len(maps)))
    random.shuffle(order)
    torch.testing.assert_close(segregation_terms(scale * maps[order]).sum(), terms.sum(), rtol=1e-4, atol=1e-5)
    assert gradient(terms.sum(), maps)[0].isfinite().all()


@given(concept_maps, st.sampled_from(["max", "quantile", "otsu"]), st.floats(0, 1))
def test_retention_is_bounded_and_pulls_the_mask_up(maps, rule, threshold):
    masks = binarize(maps, rule, threshold)
    terms = retention_terms(maps, masks)
    assert ((terms >= 0.5 - 1e-6) & (terms <= 1)).all()
    (grad,) = gradient(terms.sum(), maps)
    assert (grad[masks] <= 1e-7).all()
    assert (grad[~masks] >= -1e-7).all()


def test_limits_of_both_terms():
    left, right = torch.zeros(2, 4, 4)
    left[:, :2], right[:, 2:] = 1, 1
    assert segregation_terms(torch.stack([left, left, right])).tolist() == [0.5, 0, 0]
    assert retention_terms(torch.stack([left, left]), torch.stack([left, right])).tolist() == [0.5, 1]


def test_empty_maps_and_masks():
    maps = torch.rand(2, 4, 4, requires_grad=True)
    terms = retention_terms(maps, torch.zeros(2, 4, 4))
    assert terms.tolist() == [1, 1]
    assert not gradient(terms.sum(), maps)[0].any()
    empty = torch.zeros(2, 4, 4, requires_grad=True)
    assert segregation_terms(empty).tolist() == [0]
    assert retention_terms(empty, empty).tolist() == [1, 1]
    assert gradient(segregation_terms(empty).sum() + retention_terms(empty, empty).sum(), empty)[0].isfinite().all()


def test_the_faintest_maps_still_overlap():
    """Two alike whose sum is the smallest normal number."""
    faint = torch.full((2, 1, 1), torch.finfo(torch.float32).tiny / 2)
    assert segregation_terms(faint).tolist() == [0.5]


@given(concept_maps)
def test_binarization_rules(maps):
    largest = maps.amax((1, 2), keepdim=True)
    assert torch.equal(binarize(maps, "max", 0.7), maps >= 0.7 * largest)
    assert torch.equal(binarize(maps, "max", 1.0), maps == largest)
    share = binarize(maps, "quantile", 0.75).float().mean((1, 2))
    assert (share >= 0.25 - 1e-6).all()
    assert (share <= 0.25 + 1 / maps[0].numel() + 1e-6).all()
    assert not binarize(maps).requires_grad


def test_otsu_separates_two_levels():
    maps = torch.full((1, 6, 6), 0.1) + 0.02 * torch.rand(1, 6, 6)
    maps[0, 1:3, 2:5] += 0.7
    expected = torch.zeros(1, 6, 6, dtype=torch.bool)
    expected[0, 1:3, 2:5] = True
    assert torch.equal(binarize(maps, "otsu"), expected)


@pytest.mark.parametrize("power", [1, 3, 6])
def test_otsu_splits_where_the_squares_within_both_classes_are_smallest(power):
    """Of maps with ever fewer strong pixels; all splits are tried."""
    maps = torch.rand(20, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(power)) ** power

    def within(values):
        return ((values - values.mean()) ** 2).sum()

    for values, mask in zip(maps.flatten(1), binarize(maps, "otsu").flatten(1), strict=True):
        found, order = mask.sum(), values.sort().values
        squares = [within(order[:-n]) + within(order[-n:]) for n in range(1, 12)]
        assert found == 1 + int(torch.stack(squares).argmin())
        assert values[mask].min() > values[~mask].max()


@pytest.mark.parametrize("rule", ["max", "quantile", "otsu"])
def test_an_empty_map_has_an_empty_mask(rule):
    assert not binarize(torch.zeros(1, 4, 4), rule).any()


def test_each_map_is_spread_over_the_unit_interval():
    maps = torch.tensor([[[2.0, 3], [4, 6]], [[8, 8], [8, 8]], [[-1, 0], [0, 1]]])
    assert spread(maps).tolist() == [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]], [[0, 0.5], [0.5, 1]]]


def test_masks_come_from_the_step_before_and_move_on():
    method, first = AStar(), context(GROUPS)
    attention = random_attention(0)
    evaluation = evaluate(method, one_layer(attention), first)
    concepts = prepared(method, attention, first)
    torch.testing.assert_close(evaluation.loss, segregation_terms(concepts).sum())
    assert torch.equal(evaluation.carry, binarize(concepts))

    later = random_attention(1)
    second = dataclasses.replace(first, index=1, carry=evaluation.carry)
    concepts = prepared(method, later, second)
    expected = segregation_terms(concepts).sum() + retention_terms(concepts, evaluation.carry).sum()
    torch.testing.assert_close(evaluate(method, one_layer(later), second).loss, expected)


def test_a_layout_takes_the_place_of_the_masks_from_the_first_step_on():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[8:, 8:] = True
    layout = Layout((((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.25)), (), (mask,)))
    now = context(GROUPS, layout=layout, carry=torch.ones(3, 8, 8, dtype=torch.bool))
    owners, masks = AStar().masks([now], (8, 8))
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[0, :4, :4] = expected[0, :2, 4:] = expected[1, 4:, 4:] = True
    assert owners == [0, 2]
    assert torch.equal(torch.cat(masks), expected)
    attention = random_attention(0)
    concepts = prepared(AStar(), attention, now)
    retained = evaluate(AStar(segregation_weight=0), one_layer(attention), now).loss
    torch.testing.assert_close(retained, retention_terms(concepts[[0, 2]], expected).sum())


def test_preparation_of_the_maps():
    attention, now = random_attention(0), context(GROUPS)
    raw = prepared(AStar(normalization="raw", smoothing=False), attention, now)
    torch.testing.assert_close(raw[0], attention[..., 2])
    torch.testing.assert_close(raw[1], attention[..., [4, 5]].mean(-1))
    softened = prepared(AStar(smoothing=False), attention, now)
    torch.testing.assert_close(softened[0], torch.softmax(100 * attention[..., 1:-1], -1)[..., 1])
    flat = prepared(AStar(normalization="minmax"), attention, now).flatten(1)
    assert flat.amin(1).tolist() == [0, 0, 0]
    assert flat.amax(1).tolist() == [1, 1, 1]


@given(attentions, st.sampled_from(["resoftmax", "raw", "minmax"]))
def test_gradient_is_finite_and_start_of_text_is_left_alone(attention, normalization):
    method, first = AStar(normalization=normalization), context(GROUPS)
    carry = evaluate(method, one_layer(attention), first).carry
    loss = evaluate(method, one_layer(attention), dataclasses.replace(first, carry=carry)).loss
    (grad,) = gradient(loss, attention)
    assert grad.isfinite().all()
    assert not grad[..., 0].any()


def test_every_step_is_guided_with_a_decaying_step_size():
    sizes = [AStar().plain_step_size(context(GROUPS, index=i)) for i in range(50)]
    assert sizes[0] == 20
    assert sizes[-1] == pytest.approx(20 * 0.5**0.5)
    assert sizes == sorted(sizes, reverse=True)
    assert not list(AStar().refine(context(GROUPS)))


@pytest.mark.parametrize("weights", [(0, 0), (0, 1)])
def test_switched_off_terms_leave_nothing_on_the_first_step(weights):
    method = AStar(segregation_weight=weights[0], retention_weight=weights[1])
    attention = random_attention(0)
    loss = evaluate(method, one_layer(attention), context(GROUPS)).loss
    assert loss == 0
    assert not gradient(loss, attention)[0].any()


@pytest.mark.parametrize("groups", [[], [[None]], [[2, None]]])
def test_without_concepts_nothing_is_guided(groups):
    method, now = AStar(), context(groups)
    assert method.focus(now) == []
    assert evaluate(method, one_layer(random_attention(0)), now).loss == 0


def test_one_concept_is_only_retained():
    attention, now = random_attention(0), context([[2]])
    first = evaluate(AStar(), one_layer(attention), now)
    assert first.loss == 0
    second = evaluate(AStar(), one_layer(attention), dataclasses.replace(now, carry=first.carry))
    assert 0.5 <= second.loss < 1


def test_nan_in_the_maps_shows_in_the_loss():
    attention = random_attention(0).detach()
    attention[0, 0, 2] = torch.nan
    assert evaluate(AStar(), one_layer(attention), context(GROUPS)).loss.isnan()


def test_two_subjects_with_the_same_tokens_are_refused():
    AStar().check(context([[2], [(2, 3)]]))
    with pytest.raises(ValueError, match=r"two subjects own the same tokens \[2\]"):
        AStar().check(context([[2], [1, 2]]))


@pytest.mark.parametrize("setting", [{"binarization": "mean"}, {"normalization": "l2"}, {"threshold": 1.5}])
def test_settings_that_make_no_sense(setting):
    with pytest.raises(ValueError, match=f"a-star: {next(iter(setting))} must"):
        AStar(**setting)
