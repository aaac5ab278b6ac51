import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from attncontrol.losses import SynGen
from attncontrol.losses.words import DISTANCES, Pair
from tests.golden import golden_cases
from tests.losses.inputs import (
    attentions,
    context,
    evaluate,
    gradient,
    one_layer,
    published_structure,
    random_attention,
)
from tests.losses.single import distances, mean_distance, syngen_loss

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

    loss = evaluate(method, one_layer(attention), now).loss
    assert loss.item() == pytest.approx(expected["total_loss"], rel=1e-5, abs=1e-6)
    assert bool(method.focus(now)) == expected["latent_would_change"]
    (grad,) = gradient(loss, attention)
    torch.testing.assert_close(grad, case.tensor("grad"), rtol=0, atol=1e-4 * expected["grad_absmax"])


@pytest.mark.parametrize("case", golden_cases("syngen"))
def test_published_pairs(case):
    attention, words = case.tensor("aggregated"), range(1, len(case["clip_tokens"]) - 1)
    for group in case["outputs"]["groups"]:
        *modifiers, noun = own = as_words(group["indices"])
        attraction = distances(attention, [Pair(word, noun, 1.0) for word in modifiers], "kl")
        assert attraction == pytest.approx([p["positive"] for p in group["pairs"]], rel=1e-5, abs=1e-6)
        *others, last = (mean_distance(attention, word, own, words, "kl") for word in own)
        negatives = [p["negative"] for p in group["pairs"]] or [group["negative"]]
        repulsion = [-(other + last) / 2 for other in others] or [-last]
        assert repulsion == pytest.approx(negatives, rel=1e-5, abs=1e-6)


@given(attentions, st.permutations(range(2)), st.sampled_from(list(DISTANCES)))
def test_order_of_groups_and_modifiers_does_not_matter(attention, order, distance):
    groups = [[*reversed(GROUPS[i][:-1]), GROUPS[i][-1]] for i in order]
    expected = syngen_loss(attention, GROUPS, WORDS, distance)
    torch.testing.assert_close(syngen_loss(attention, groups, WORDS, distance), expected)


@given(attentions, st.sampled_from(list(DISTANCES)), st.integers(0, 2**31))
@example(random_attention(seed=0, size=(4, 4), sharpness=30.0), "tv", 0)  # maps whose scale crosses FAINT
def test_scale_of_a_map_does_not_matter(attention, distance, seed):
    assume(attention.amax((0, 1)).min() > 1e-36)  # a map below the smallest normal number stays as it is
    scale = torch.rand(attention.shape[-1], generator=torch.Generator().manual_seed(seed)) + 0.1
    scaled = syngen_loss(attention * scale, GROUPS, WORDS, distance)
    torch.testing.assert_close(scaled, syngen_loss(attention, GROUPS, WORDS, distance), rtol=1e-3, atol=1e-4)


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
    whole, *single = distances(random_attention(0), [Pair(word, (5,), 1.0) for word in ((3, 4), (3,), (4,))], "kl")
    assert whole == max(single)


def test_without_outside_tokens_only_attraction_is_left():
    attraction, repulsion = syngen_loss(random_attention(0), [[(1,), (2,)]], range(1, 3))
    assert attraction > 0 == repulsion


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
    assert bool(method.focus(now)) == bool(expected)


def test_published_code_keeps_a_noun_that_lost_its_modifiers():
    assert SynGen(variant="reference").groups(context([[None, 3]])) == [[(3,)]]


def test_groups_that_share_tokens_are_finite():
    attention = random_attention(0)
    loss = evaluate(SynGen(), one_layer(attention), context([[2, 3], [3, 2], [2, 2]])).loss
    assert gradient(loss, attention)[0].isfinite().all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_zero_maps_are_finite(distance):
    attention = random_attention(0).detach()
    attention[..., [3, 6]] = 0
    attention.requires_grad_()
    loss = evaluate(SynGen(distance=distance), one_layer(attention), context([[2, 3], [5, 6]])).loss
    assert loss.isfinite()
    assert gradient(loss, attention)[0].isfinite().all()


def test_nan_in_the_maps_shows_in_the_loss():
    attention = random_attention(0).detach()
    attention[0, 0, 3] = torch.nan
    assert evaluate(SynGen(), one_layer(attention), context([[2, 3]])).loss.isnan()


def test_unknown_distance():
    with pytest.raises(ValueError, match="'kl', 'cosine', 'tv', not 'l2'"):
        SynGen(distance="l2")
