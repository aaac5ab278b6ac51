import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from attncontrol.losses import Ebama
from attncontrol.losses.ebama import ebama_pairs
from attncontrol.losses.words import DISTANCES, word_groups
from tests.golden import golden_cases
from tests.losses.inputs import (
    attentions,
    context,
    evaluate,
    gradient,
    one_layer,
    published_structure,
    random_attention,
    structure,
)
from tests.losses.single import distances, ebama_binding_loss, mean_distance, object_peaks

DISTANCE_NAMES = {"cos": "cosine", "kl": "kl", "tvd": "tv"}
GROUPS = [[(2,), (3, 4), (5,)], [(7, 8)]]
WORDS = range(1, 11)


def published_method(case):
    kwargs = case["kwargs"]
    return Ebama(variant="reference", distance=DISTANCE_NAMES[kwargs["dist"]], intensity_weight=kwargs["lambda_ours"])


def published_context(case):
    n_tokens = len(case["clip_tokens"])
    return context(prompt=published_structure(case["groupings"]["subtree_indices"], n_tokens))


@pytest.mark.parametrize("case", golden_cases("ebama"))
def test_published_total_and_gradient(case):
    attention = case.tensor("aggregated", requires_grad=True)
    loss = evaluate(published_method(case), one_layer(attention), published_context(case)).loss
    expected = case["outputs"]
    assert loss.item() == pytest.approx(expected["total_loss"], rel=1e-5, abs=1e-6)
    (grad,) = gradient(loss, attention)
    torch.testing.assert_close(grad, case.tensor("grad"), rtol=0, atol=1e-4 * expected["grad_absmax"])


@pytest.mark.parametrize("case", golden_cases("ebama"))
def test_published_terms(case):
    attention, n_tokens, expected = case.tensor("aggregated"), len(case["clip_tokens"]), case["outputs"]
    distance = DISTANCE_NAMES[case["kwargs"]["dist"]]
    groups = word_groups(published_context(case).prompt, lost_words=True)
    positive, negative = ebama_binding_loss(attention, groups, range(1, n_tokens - 1), distance)
    assert positive.item() == pytest.approx(expected["positive_loss"], rel=1e-5, abs=1e-6)
    assert negative.item() == pytest.approx(expected["negative_loss"], rel=1e-5, abs=1e-6)
    assert (positive + negative).item() == pytest.approx(expected["binding_loss"], rel=1e-5, abs=1e-6)
    peaks = object_peaks(attention, [group[-1][0] for group in groups], [slice(1, -1)])
    assert peaks.tolist() == pytest.approx(expected["object_peaks"], rel=1e-5)
    assert -peaks.sum().item() == pytest.approx(expected["intensity_loss"], rel=1e-5)

    for group, recorded in zip(groups, expected["groups"], strict=True):
        words, pairs = range(1, n_tokens - 1), recorded["pairs"]
        attracting = [pair for pair in ebama_pairs(group, words, distance) if pair.weight > 0]
        known = [p["positive"] for p in pairs if p["positive"] is not None]
        assert sum(distances(attention, attracting, distance)) == pytest.approx(sum(known), rel=1e-5, abs=1e-6)
        repulsion = mean_distance(attention, group[-1], group, words, distance)
        assert [-repulsion] * len(pairs) == pytest.approx([p["negative"] for p in pairs], rel=1e-5)


@given(attentions, st.permutations(range(2)), st.sampled_from(list(DISTANCES)))
def test_order_of_groups_and_attributes_does_not_matter(attention, order, distance):
    groups = [[*reversed(GROUPS[i][:-1]), GROUPS[i][-1]] for i in order]
    expected = ebama_binding_loss(attention, GROUPS, WORDS, distance)
    torch.testing.assert_close(ebama_binding_loss(attention, groups, WORDS, distance), expected)


@given(attentions, st.sampled_from(["cosine", "tv"]))
@example(random_attention(seed=0, size=(4, 4), sharpness=30.0), "tv")  # a map whose scale crosses FAINT
def test_binding_is_bounded_and_scale_invariant(attention, distance):
    assume(attention.amax((0, 1)).min() > 1e-36)  # a map below the smallest normal number stays as it is
    positive, negative = ebama_binding_loss(attention, GROUPS, WORDS, distance)
    attributes, repulsions = 3 if distance == "cosine" else 2, 3
    assert -1e-6 <= positive <= attributes + 1e-6
    assert -repulsions - 1e-6 <= negative <= 1e-6
    scaled = ebama_binding_loss(attention * torch.arange(1, 21), GROUPS, WORDS, distance)
    torch.testing.assert_close(scaled, (positive, negative), rtol=1e-3, atol=1e-4)


@given(attentions, st.sampled_from(list(DISTANCES)))
def test_gradient_is_finite_and_start_of_text_is_left_alone(attention, distance):
    loss = evaluate(Ebama(distance=distance), one_layer(attention), context([[2, (3, 4), 5], [(7, 8)]], 12)).loss
    (grad,) = gradient(loss, attention)
    assert grad.isfinite().all()
    assert grad.any()
    assert not grad[..., [0, -1]].any()


def test_attributes_are_not_repelled():
    attention = random_attention(0)
    (_, negative) = ebama_binding_loss(attention, [[(2,), (5,)]], WORDS)
    (grad,) = gradient(negative, attention)
    assert not grad[..., 2].any()
    assert grad[..., 5].any()


def test_an_object_is_repelled_once_per_attribute():
    attention = random_attention(0)
    for group, times in (([(2,), (3,), (5,)], 2), ([(5,)], 1)):
        repulsion = mean_distance(attention, (5,), group, WORDS, "cosine")
        assert ebama_binding_loss(attention, [group], WORDS)[1].item() == pytest.approx(-times * repulsion)
    assert ebama_binding_loss(attention, [[(), (5,)]], WORDS)[1] == 0


def test_intensity_is_one_where_a_token_takes_everything():
    attention = torch.full((5, 5, 20), 0.0)
    attention[..., 4] = 1
    assert object_peaks(attention, [4, 5], [slice(1, -1)]).tolist() == pytest.approx([1, 0], abs=1e-6)


def test_padding_stays_out_of_the_softmax_for_second_generation_text_encoders():
    attention = random_attention(0)
    now, other = (context([[5]], 12, drop_padding=drop) for drop in (True, False))
    losses = {
        variant: [evaluate(Ebama(variant=variant), one_layer(attention), c).loss for c in (now, other)]
        for variant in ("default", "reference")
    }
    assert losses["default"][0] < losses["default"][1]
    assert losses["reference"][0] == losses["reference"][1]


def test_window_of_the_published_code():
    for count in (50, 51):
        guided = [i for i in range(count) if Ebama().plain_step_size(context([[2]], index=i, count=count))]
        assert guided == list(range(26))


@pytest.mark.parametrize("groups", [[], [[None]], [[2, None]]])
def test_without_objects_nothing_is_guided(groups):
    method, now = Ebama(), context(groups)
    assert method.focus(now) == []
    assert evaluate(method, one_layer(random_attention(0)), now).loss.item() == 0


def test_an_object_without_outside_tokens_is_not_repelled():
    _, negative = ebama_binding_loss(random_attention(0), [[(1,), (2,)]], range(1, 3))
    assert negative == 0


def test_object_that_lost_its_attributes():
    prompt = structure([[None, 5]], 12)
    attention = random_attention(0)
    repaired, published = (
        evaluate(Ebama(variant=variant, intensity_weight=0), one_layer(attention), context(prompt=prompt)).loss
        for variant in ("default", "reference")
    )
    assert repaired < 0 == published


@pytest.mark.parametrize("distance", DISTANCES)
def test_zero_maps_and_shared_tokens_are_finite(distance):
    attention = random_attention(0).detach()
    attention[..., [3, 6]] = 0
    attention.requires_grad_()
    now = context([[2, 3], [3, 2], [5, 6], [6]])
    loss = evaluate(Ebama(distance=distance), one_layer(attention), now).loss
    assert loss.isfinite()
    assert gradient(loss, attention)[0].isfinite().all()


def test_nan_in_the_maps_shows_in_the_loss():
    attention = random_attention(0).detach()
    attention[0, 0, 3] = torch.nan
    assert evaluate(Ebama(), one_layer(attention), context([[2, 3]])).loss.isnan()


def test_unknown_distance():
    with pytest.raises(ValueError, match="ebama: distance must be one of"):
        Ebama(distance="cos")
