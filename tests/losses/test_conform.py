import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap
from attncontrol.losses import Conform
from attncontrol.losses.conform import cosine_similarity, group_labels
from tests.golden import golden_cases
from tests.losses.inputs import attentions, context, evaluate, gradient, mean_cross, one_layer, random_attention
from tests.losses.single import contrastive_loss, nt_xent_loss

PUBLISHED_NAMES = {
    "loss_fn": "loss",
    "temperature": "temperature",
    "do_smoothing": "smoothing",
    "smoothing_kernel_size": "kernel_size",
    "smoothing_sigma": "sigma",
    "softmax_normalize": "softmax_normalize",
    "softmax_normalize_attention_maps": "softmax_normalize_attention_maps",
}
GROUPS = [[2, 3], [6, (7, 8)]]


def published_method(case):
    settings = {name: case["kwargs"][published] for published, name in PUBLISHED_NAMES.items()}
    return Conform(variant="reference", refine_at=(), **settings)


def published_context(case, previous):
    groups = case["inputs"]["token_groups"]
    return context(groups, n_tokens=77, index=1, carry=previous)


def rows_of(method, attention, now):
    """Rows [rows, pixels] and labels [rows] of one image's mean attention."""
    embeddings, labels = method.embeddings(attention[None], [now])
    return embeddings[0], labels[0]


def loss_of(method, attention, now):
    return evaluate(method, one_layer(attention), now).loss


def layers_of(case):
    """The captured layers in order of execution: (name of the array, leaf)."""
    names = sorted(
        (n for n in case.arrays if n.startswith("layer_")), key=lambda n: ("down", "mid", "up").index(n[6:-2])
    )
    return [(name, case.tensor(name, requires_grad=True)) for name in names]


@pytest.mark.parametrize("case", golden_cases("conform"))
def test_published_values(case):
    inputs, expected = case["inputs"], case["outputs"]["total"]
    size = (inputs["H"], inputs["W"])
    named = layers_of(case)
    if named:
        maps = AttentionMaps(tuple(LayerMap(Layer(n, n.split("_")[1], True, size), x) for n, x in named))
        leaves, recorded = [x for _, x in named], [f"grad_{n}" for n, _ in named]
        torch.testing.assert_close(mean_cross(maps, size).detach(), case.tensor("attn_aggregated"))
    else:
        leaves, recorded = [case.tensor("attn", requires_grad=True)], ["grad_attn"]
        maps = one_layer(leaves[0])
    previous = None
    if inputs["has_previous"]:
        previous = case.tensor("prev_attn", requires_grad=True)
        leaves, recorded = [*leaves, previous], [*recorded, "grad_prev_attn"]

    evaluation = evaluate(published_method(case), maps, published_context(case, previous))
    assert evaluation.loss.item() == pytest.approx(expected, rel=1e-5)
    assert not evaluation.carry.requires_grad
    for found, name in zip(gradient(evaluation.loss, *leaves), recorded, strict=True):
        torch.testing.assert_close(found, case.tensor(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", golden_cases("conform"))
def test_published_terms(case):
    attention = case.tensor("attn_aggregated" if "attn_aggregated" in case else "attn")
    previous = case.tensor("prev_attn") if case["inputs"]["has_previous"] else None
    embeddings, labels = rows_of(published_method(case), attention, published_context(case, previous))
    torch.testing.assert_close(embeddings, case.tensor("embeddings"), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        cosine_similarity(embeddings[None])[0], case.tensor("cosine_similarity"), rtol=1e-5, atol=1e-6
    )
    assert labels.tolist() == case.tensor("labels").tolist()
    if "terms_loss" in case:
        found = nt_xent_loss(embeddings, labels, case["kwargs"]["temperature"])
        torch.testing.assert_close(found, case.tensor("terms_loss").mean(), rtol=1e-5, atol=1e-6)
    if "terms_pos_loss" in case:
        parts = [case.tensor(f"terms_{sign}_loss") for sign in ("pos", "neg")]
        expected = sum(part[part > 0].mean() if (part > 0).any() else 0 for part in parts)
        assert contrastive_loss(embeddings, labels).item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("case", [c for c in golden_cases("conform") if "prev_attn_after_call" in c.values[0]])
def test_published_damage_to_the_previous_maps(case):
    """A second call on what the first one left behind equals one call with the squared factor."""
    attention, previous = case.tensor("attn"), case.tensor("prev_attn")
    method, first = published_method(case), published_context(case, case.tensor("prev_attn_after_call"))
    again = loss_of(method, attention, first)
    refining = dataclasses.replace(method, refine_at=(1,))
    second = loss_of(refining, attention, published_context(case, previous))
    torch.testing.assert_close(second, again)
    repaired = dataclasses.replace(refining, variant="default")
    assert loss_of(repaired, attention, published_context(case, previous)).item() == pytest.approx(
        case["outputs"]["total"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("anchor", "index", "moves", "evaluations"),
    [
        (None, 1, 0, 1),
        (None, 3, 0, 2),
        (None, 3, 2, 4),
        (None, 3, 3, 5),
        (1, 2, 0, 1),
        (1, 3, 0, 3),
        (1, 5, 0, 1 + 5 + 1 + 1),
        (2, 7, 0, 5 + 1 + 1 + 1 + 1),
    ],
)
def test_how_often_the_published_code_scales_the_previous_maps(anchor, index, moves, evaluations):
    """Previous maps that are smaller by as much come out as the plain softmax over tokens."""
    method = Conform(
        variant="reference", refine_at=(0, 3), refinement_steps=3, anchor_step=anchor, softmax_normalize=True,
        smoothing=False,
    )  # fmt: skip
    bright = (torch.rand(8, 8, 20, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    now = context(GROUPS, index=index, refinements=moves, carry=bright * 2 * 100.0**-evaluations)
    embeddings, _ = rows_of(method, bright, now)
    expected = method.token_maps(
        2 * bright[None], [(0, t) for t in group_labels(method.groups(now))], [now], scale=1.0
    )
    torch.testing.assert_close(embeddings[1::2], expected)


def rows(attention):
    embeddings = attention.flatten(0, 1).T[1:10]
    return embeddings, torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])


@given(attentions, st.permutations(range(9)), st.sampled_from([0.07, 0.5, 2.0]))
def test_order_of_rows_and_names_of_groups_do_not_matter(attention, order, temperature):
    embeddings, labels = rows(attention)
    renamed = (labels + 1) % 3
    for loss in (lambda e, y: nt_xent_loss(e, y, temperature), contrastive_loss):
        torch.testing.assert_close(loss(embeddings[order], renamed[order]), loss(embeddings, labels))


@given(attentions, st.sampled_from([0.07, 0.5, 2.0]))
def test_bounds_scale_and_gradient(attention, temperature):
    embeddings, labels = rows(attention)
    loss = nt_xent_loss(embeddings, labels, temperature)
    largest = torch.tensor(6.0).log() + 1 / temperature + 0.01
    assert 0 <= loss <= largest
    if embeddings.norm(dim=1).min() > 1e-9:  # shorter rows are not brought to length 1
        scaled = nt_xent_loss(embeddings * torch.arange(1, 10)[:, None], labels, temperature)
        torch.testing.assert_close(scaled, loss, rtol=1e-4, atol=1e-5)
    assert 0 <= contrastive_loss(embeddings, labels) <= 2 + 1e-5
    for found in (loss, contrastive_loss(embeddings, labels)):
        assert gradient(found, attention)[0].isfinite().all()


def test_known_values():
    apart = torch.eye(2)[[0, 0, 1, 1]]
    labels = torch.tensor([0, 0, 1, 1])
    expected = -torch.tensor(1 / (1 + 2 * torch.e**-2)).log()
    assert nt_xent_loss(apart, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert contrastive_loss(apart, labels) == 0
    same = torch.ones(4, 3)
    assert nt_xent_loss(same, labels).item() == pytest.approx(torch.tensor(3.0).log().item(), rel=1e-6)
    assert contrastive_loss(same, labels).item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("labels", [[0, 1], [0, 0], [0]])
def test_without_positive_or_negative_pairs_the_loss_is_a_constant_zero(labels):
    embeddings = torch.rand(len(labels), 9, requires_grad=True)
    loss = nt_xent_loss(embeddings, torch.tensor(labels))
    assert loss == 0
    assert not gradient(loss, embeddings)[0].any()


def test_the_last_group_owns_a_shared_token():
    assert group_labels([[2, 3], [6, 2]]) == {2: 1, 3: 0, 6: 1}
    assert list(group_labels([[2, 3], [6, 2]])) == [2, 3, 6]


@pytest.mark.parametrize(("pieces", "expected"), [("all", [6, 7, 8]), ("first", [6, 7]), ("last", [6, 8])])
def test_which_pieces_take_part(pieces, expected):
    assert Conform(pieces=pieces).groups(context(GROUPS)) == [[2, 3], expected]


def test_softmax_over_the_pixels_of_each_map():
    attention = random_attention(0).detach()
    method = Conform(softmax_normalize_attention_maps=True, smoothing=False)
    weights = (100 * attention[..., [2, 6]].double()).exp().flatten(0, 1).T
    expected = weights / weights.sum(1, keepdim=True)
    torch.testing.assert_close(rows_of(method, attention, context([[2], [6]]))[0].double(), expected)


def test_which_loss_the_mixed_one_is():
    attention = random_attention(0)
    for groups, name in (([[2], [6, 7]], "contrastive"), ([[2, 3], [6]], "ntxent")):
        found, expected = (loss_of(Conform(loss=n), attention, context(groups)) for n in ("ntxent_contrastive", name))
        assert found == expected != 0


def carried(method, indices):
    """At which of these steps the maps of that step are handed on."""
    attention = random_attention(0)
    now = context(GROUPS, carry=random_attention(1).detach())
    return [
        index
        for index in indices
        if evaluate(method, one_layer(attention), dataclasses.replace(now, index=index)).carry is not now.carry
    ]


def test_a_contrastive_mean_is_over_the_pairs_that_cost_something():
    rows = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0.6, 0.8], [0, 0, 1]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    # of two positive pairs one is equal; of the negative ones, only the last two rows are alike
    assert contrastive_loss(rows, labels).item() == pytest.approx(0.4 + 0.8)


def test_which_maps_are_the_previous_ones():
    assert carried(Conform(), range(6)) == list(range(6))
    assert carried(Conform(anchor_step=4), range(6)) == [4]
    assert carried(Conform(anchor_step=0.08), range(6)) == [4]
    assert evaluate(Conform(previous_maps=False), one_layer(random_attention(0)), context(GROUPS)).carry is None


def requests(method, index, count=10):
    return list(method.refine(context(GROUPS, index=index, count=count)))


def test_refinement_moves_a_fixed_number_of_times():
    method = Conform(refine_at=(0, 0.3, 5), refinement_steps=3)
    moves = [len(requests(method, index)) for index in range(10)]
    assert moves == [3, 0, 0, 3, 0, 3, 0, 0, 0, 0]
    assert requests(method, 5) == [method.plain_step_size(context(GROUPS, index=5, count=10))] * 3


def test_refinement_after_the_window_looks_at_the_step_before_it():
    method = Conform(stop=0.4, refine_at=(7,), refinement_steps=2)
    step = method.decayed_step_size(context(index=7, count=10))
    assert {index: requests(method, index) for index in range(4, 10)} == {
        **{4: [], 5: [], 8: [], 9: []},
        6: [0.0],
        7: [step, step],
    }
    anchored = dataclasses.replace(method, anchor_step=6)
    assert requests(anchored, 6) == [0.0]
    assert requests(dataclasses.replace(method, previous_maps=False), 6) == []


def test_two_refinements_in_a_row_after_the_window_end_with_a_look():
    method = Conform(stop=0.2, refine_at=(6, 7), refinement_steps=1)
    assert [request > 0 for request in requests(method, 6)] == [True, False]


@pytest.mark.parametrize(("loss", "done"), [(None, False), (0.0, False), (1e-6, True), (0.5, True), (0.51, False)])
def test_an_image_that_has_enough_moves_no_more(loss, done):
    """A loss of 0 is one without pairs, as in the first step of things without attributes."""
    method = Conform(enough=0.5, refine_at=(0.2,), refinement_steps=2)
    for index in (3, 10):  # of 50: in the window, and a step that refines
        now = context([[2], [5]], index=index, last_loss=loss)
        assert (method.plain_step_size(now) == 0) is done
        assert len(list(method.refine(now))) == (0 if done or index == 3 else 2)
    assert Conform().plain_step_size(context([[2], [5]], index=3, last_loss=1e-6)) > 0


def test_the_notebook_is_the_preset():
    method, count = Conform(), 51
    guided = [i for i in range(count) if method.plain_step_size(context(GROUPS, index=i, count=count))]
    refined = [i for i in range(count) if requests(method, i, count)]
    assert guided == list(range(30))
    assert refined == [0, 10, 20]


@pytest.mark.parametrize("groups", [[], [[None]]])
def test_without_groups_nothing_is_guided(groups):
    method, now = Conform(), context(groups)
    assert method.focus(now) == []
    assert evaluate(method, one_layer(random_attention(0)), now).loss == 0


def test_one_group_has_no_negatives():
    assert loss_of(Conform(), random_attention(0), context([[2, 3]])) == 0


@pytest.mark.parametrize("loss", ["ntxent", "contrastive"])
def test_zero_maps_and_shared_tokens_are_finite(loss):
    attention = random_attention(0).detach()
    attention[..., 3] = 0
    attention.requires_grad_()
    now = context([[2, 3], [3, 6], [6, 6]])
    found = evaluate(Conform(loss=loss), one_layer(attention), now).loss
    assert found.isfinite()
    assert gradient(found, attention)[0].isfinite().all()


def test_nan_in_the_maps_shows_in_the_loss():
    attention = random_attention(0).detach()
    attention[0, 0, 3] = torch.nan
    assert evaluate(Conform(), one_layer(attention), context(GROUPS)).loss.isnan()


def test_a_larger_kernel_keeps_the_size_unless_the_published_code_is_asked_for():
    attention, now = random_attention(0), context(GROUPS)
    widths = {
        v: rows_of(Conform(variant=v, kernel_size=5), attention, now)[0].shape[1] for v in ("default", "reference")
    }
    assert widths == {"default": 64, "reference": 36}


@pytest.mark.parametrize("setting", [{"loss": "triplet"}, {"pieces": "some"}])
def test_settings_that_make_no_sense(setting):
    with pytest.raises(ValueError, match=f"conform: {next(iter(setting))} must be"):
        Conform(**setting)


def test_images_of_a_batch_have_the_loss_that_each_of_them_chooses():
    """Contrastive where the first group has one token, ntxent where it has several."""
    method = Conform(loss="ntxent_contrastive")
    contexts = [context([[2], [4, 5]]), context([[2, 3], [5]]), context([[2], [4]])]
    attention = torch.stack([random_attention(seed).detach() for seed in range(3)])
    layer = Layer("up_blocks.1.attn2", "up", True, tuple(attention.shape[1:3]))
    maps = AttentionMaps((LayerMap(layer, attention.flatten(1, 2)[:, None]),))
    together = method.evaluate(maps, contexts).loss
    for image, name in enumerate(("contrastive", "ntxent", "contrastive")):
        alone = Conform(loss=name).evaluate(maps.rows([image]), contexts[image : image + 1]).loss
        torch.testing.assert_close(together[image], alone[0])
