import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncontrol.losses import SynGen
from attncontrol.losses.syngen import syngen_loss, syngen_terms
from attncontrol.losses.words import DISTANCES, distributions
from tests.golden import golden_cases
from tests.losses.inputs import attentions, context, gradient, one_layer, published_structure, random_attention

GROUPS = [[(2,), (3, 4), (5,)], [(7,), (8,)]]
WORDS = range(1, 11)


def as_words(group):
    return [(w,) if isinstance(w, int) else tuple(w) for w in group]


@pytest.mark.parametrize("case", golden_cases("syngen"))
def test_published_values(case):
    attention = case.tensor("aggregated", requires_grad=True)
    n_tokens, expected = len(case["clip_tokens"]), case["outputs"]
    prompt = published_structure(case["groupings"]["subtree_indices"], n_tokens)
    method = SynGen(variant="reference", include_entities=case["kwargs"]["include_entities"])
    now = context(prompt=prompt)
    positive, negative = syngen_loss(attention, method.groups(now), range(1, n_tokens - 1))
    assert positive.item() == pytest.approx(expected["positive_loss"], rel=1e-5, abs=1e-6)
    assert negative.item() == pytest.approx(expected["negative_loss"], rel=1e-5, abs=1e-6)

    loss = method.evaluate(one_layer(attention), now).loss
    assert loss.item() == pytest.approx(expected["total_loss"], rel=1e-5, abs=1e-6)
    assert (method.plain_step_size(now) > 0) == expected["latent_would_change"]
    (grad,) = gradient(loss, attention)
    torch.testing.assert_close(grad, case.tensor("grad"), rtol=0, atol=1e-4 * expected["grad_absmax"])


@pytest.mark.parametrize("case", golden_cases("syngen"))
def test_published_pairs(case):
    maps = distributions(case.tensor("aggregated"))
    for group in case["outputs"]["groups"]:
        attraction, repulsion = syngen_terms(maps, as_words(group["indices"]), range(1, len(case["clip_tokens"]) - 1))
        assert attraction.tolist() == pytest.approx([p["positive"] for p in group["pairs"]], rel=1e-5, abs=1e-6)
        negatives = [p["negative"] for p in group["pairs"]] or [group["negative"]]
        assert (-repulsion).tolist() == pytest.approx(negatives, rel=1e-5, abs=1e-6)


@settings(max_examples=25)
@given(attentions, st.permutations(range(2)), st.sampled_from(list(DISTANCES)))
def test_order_of_groups_and_modifiers_does_not_matter(attention, order, distance):
    groups = [[*reversed(GROUPS[i][:-1]), GROUPS[i][-1]] for i in order]
    expected = syngen_loss(attention, GROUPS, WORDS, distance)
    torch.testing.assert_close(syngen_loss(attention, groups, WORDS, distance), expected)


@settings(max_examples=25)
@given(attentions, st.sampled_from(list(DISTANCES)), st.integers(0, 2**31))
def test_scale_of_a_map_does_not_matter(attention, distance, seed):
    scale = torch.rand(attention.shape[-1], generator=torch.Generator().manual_seed(seed)) + 0.1
    scaled = syngen_loss(attention * scale, GROUPS, WORDS, distance)
    torch.testing.assert_close(scaled, syngen_loss(attention, GROUPS, WORDS, distance), rtol=1e-3, atol=1e-4)


@settings(max_examples=25)
@given(attentions, st.sampled_from(list(DISTANCES)))
def test_signs_and_reach_of_the_gradient(attention, distance):
    positive, negative = syngen_loss(attention, GROUPS, WORDS, distance)
    assert positive >= 0 >= negative
    (grad,) = gradient(positive + negative, attention)
    assert grad.isfinite().all()
    assert not grad[..., [0, *range(11, 20)]].any(), "start, end and padding take no part"


@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_maps_cost_nothing(distance):
    attention = torch.rand(4, 4, 1).expand(4, 4, 20) * torch.arange(1, 21)
    for part in syngen_loss(attention, GROUPS, WORDS, distance):
        assert float(part) == pytest.approx(0, abs=1e-5)


def test_distances_of_disjoint_maps():
    p = torch.tensor([[1.0, 0.0]])
    q = torch.tensor([[0.0, 1.0]])
    eps = torch.finfo(torch.float32).eps
    assert float(DISTANCES["kl"](p, q)) == pytest.approx(-torch.tensor(eps).log().item(), rel=1e-6)
    assert float(DISTANCES["cosine"](p, q)) == 1
    assert float(DISTANCES["tv"](p, q)) == 1


def test_the_largest_distance_of_the_pieces_counts():
    maps = distributions(random_attention(0))
    single = [syngen_terms(maps, [(piece,), (5,)], WORDS)[0] for piece in (3, 4)]
    assert syngen_terms(maps, [(3, 4), (5,)], WORDS)[0] == max(single)


def test_without_outside_tokens_only_attraction_is_left():
    attraction, repulsion = syngen_terms(distributions(random_attention(0)), [(1,), (2,)], range(1, 3))
    assert attraction.item() > 0
    assert repulsion.tolist() == [0]


@pytest.mark.parametrize(
    ("groups", "include", "expected"),
    [
        ([], True, []),
        ([[2]], False, []),
        ([[2]], True, [[(2,)]]),
        ([[2, 3], [5]], False, [[(2,), (3,)]]),
        ([[None, 3]], False, []),
        ([[2, None]], True, []),
    ],
)
def test_who_takes_part(groups, include, expected):
    method, now = SynGen(include_entities=include), context(groups)
    assert method.groups(now) == expected
    assert (method.plain_step_size(now) > 0) == bool(expected)


def test_published_code_keeps_a_noun_that_lost_its_modifiers():
    assert SynGen(variant="reference").groups(context([[None, 3]])) == [[(3,)]]


def test_groups_that_share_tokens_are_finite():
    attention = random_attention(0)
    loss = SynGen().evaluate(one_layer(attention), context([[2, 3], [3, 2], [2, 2]])).loss
    assert gradient(loss, attention)[0].isfinite().all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_zero_maps_are_finite(distance):
    attention = random_attention(0).detach()
    attention[..., [3, 6]] = 0
    attention.requires_grad_()
    loss = SynGen(distance=distance).evaluate(one_layer(attention), context([[2, 3], [5, 6]])).loss
    assert loss.isfinite()
    assert gradient(loss, attention)[0].isfinite().all()


def test_nan_in_the_maps_shows_in_the_loss():
    attention = random_attention(0).detach()
    attention[0, 0, 3] = torch.nan
    assert SynGen().evaluate(one_layer(attention), context([[2, 3]])).loss.isnan()


def test_unknown_distance():
    with pytest.raises(ValueError, match="'kl', 'cosine', 'tv', not 'l2'"):
        SynGen(distance="l2")
