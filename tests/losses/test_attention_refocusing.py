import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap, smooth
from attncontrol.layout import Layout, cell_masks
from attncontrol.losses import AttentionRefocusing, Evaluation
from attncontrol.losses.refocusing_terms import grounding_terms, token_attention
from tests.losses.inputs import context, evaluate, gradient, mean_cross
from tests.losses.layouts import LEFT, RIGHT, boxes, captured, denoiser_maps, loss_and_gradients, placed, sampling
from tests.losses.single import car_terms, resoftmax, sar_loss, token_means

PUBLISHED = {"edges": "truncate", "at_least_one": False}


def two_things(**known):
    return placed(([1, 2], [LEFT]), ([4], [RIGHT]), **known)


def evaluation(loss=1.0, monitor=0.0):
    return lambda _: Evaluation(torch.tensor(loss), monitor=monitor)


def test_published_table_in_50_steps():
    method = AttentionRefocusing(variant="reference")
    unsatisfied, satisfied = (sampling(method, 50, evaluation(monitor=m)) for m in (0.1, 0.2))
    assert sum(map(len, unsatisfied.values())) == 49
    assert {i: (len(s), s[0]) for i, s in unsatisfied.items()} == {
        **dict.fromkeys((0, 1), (2, 4.0)),
        **dict.fromkeys((2, 3, 4), (6, 4.0)),
        **dict.fromkeys(range(5, 10), (3, 3.0)),
        **dict.fromkeys((10, 15), (2, 3.0)),
        **dict.fromkeys((20, 25, 30, 35), (2, 1.0)),
    }
    assert [len(s) for s in satisfied.values()] == [1] * 16


def test_default_scale_is_ten_times_the_published_one():
    published, default = (sampling(AttentionRefocusing(variant=v), 50, evaluation()) for v in ("reference", "default"))
    assert default == {i: [10 * s for s in own] for i, own in published.items()}


@pytest.mark.parametrize(("settings_", "step"), [({}, 4), ({"step_size": 8}, 8), ({"relative_step": 0.02}, 0.02)])
def test_the_scale_follows_the_variant_unless_it_is_given(settings_, step):
    """Also where the variant is changed afterwards, as on the command line."""
    changed = dataclasses.replace(AttentionRefocusing(**settings_), variant="reference")
    assert changed == AttentionRefocusing(variant="reference", **settings_)
    assert changed.base_step == step


@pytest.mark.parametrize("count", [4, 10, 20, 25, 30, 51, 100])
def test_table_stretches_with_the_number_of_steps(count):
    steps = sampling(AttentionRefocusing(), count, evaluation())
    late = [i for i in steps if i * 50 / count >= 10]
    assert [i for i in steps if i not in late] == [i for i in range(count) if i * 50 / count < 10]
    assert len(late) == min(6, len([i for i in range(int(0.8 * count)) if i * 50 / count >= 10]))
    assert all(s == {0: 40, 1: 30, 2: 30, 3: 30}.get(int(i * 50 / count) // 5, 10) for i in steps for s in steps[i])


def test_v1_table():
    steps = sampling(AttentionRefocusing(variant="reference", release="v1"), 50, evaluation(monitor=0.9))
    assert [steps[i] for i in (0, 9, 10, 19, 20, 29)] == [[3.0] * 5] * 2 + [[2.0] * 5] * 2 + [[1.0]] * 2
    assert max(steps) == 29
    alone = sampling(AttentionRefocusing(variant="reference", release="v1", car=0), 50, evaluation())
    assert [alone[i][0] for i in (0, 10, 20)] == [4, 3, 1]


def test_small_loss_ends_early_steps_only():
    method = AttentionRefocusing(variant="reference")
    steps = sampling(method, 50, evaluation(loss=0.02))
    assert [len(steps[i]) for i in (0, 9, 10)] == [1, 1, 2]
    assert [len(sampling(method, 50, evaluation(loss=loss))[0]) for loss in (0.025, 0.026, 0.03)] == [1, 2, 2]


def test_not_a_number_ends_a_step():
    for key in ("loss", "monitor"):
        assert len(sampling(AttentionRefocusing(), 50, evaluation(**{key: math.nan}))[2]) == 1


def test_window():
    steps = sampling(AttentionRefocusing(start=0.1, stop=0.3), 50, evaluation())
    assert list(steps) == [5, 6, 7, 8, 9, 10]


def test_weights_add_up():
    maps, now = denoiser_maps(), two_things()
    both, car, sar = (
        evaluate(AttentionRefocusing(car=c, sar=s), captured(AttentionRefocusing(car=c, sar=s), maps), now).loss
        for c, s in ((0.5, 2), (1, 0), (0, 1))
    )
    assert car > 0 and sar > 0
    torch.testing.assert_close(both, 0.5 * car + 2 * sar)


def test_the_leak_is_a_mean_over_the_layers_of_self_attention():
    method = AttentionRefocusing(car=0)
    layers = [denoiser_maps(seed).self_attention((8, 8))[0] for seed in range(3)]
    maps = AttentionMaps((*captured(AttentionRefocusing(sar=0), denoiser_maps()).layers, *layers))
    cells = cell_masks([LEFT, RIGHT], (8, 8)).flatten(1)
    expected = sum(sar_loss(layer.probabilities, cells, 2) for layer in layers) / 3
    torch.testing.assert_close(evaluate(method, maps, placed(([1], [LEFT]), ([4], [RIGHT]))).loss, expected)


def test_layers():
    layers = [m.layer for m in denoiser_maps().layers]
    assert AttentionRefocusing().select_layers(layers) == layers[2:]
    assert AttentionRefocusing(sar=0).select_layers(layers) == [layers[2]]
    with pytest.raises(ValueError, match=r"no self-attention layer has maps of 8x8; set sar=0"):
        AttentionRefocusing().select_layers([layer for layer in layers if layer.is_cross])


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"release": "v3"}, "release must be one of 'v1', 'v2', not 'v3'"),
        ({"car": 0, "sar": 0}, "both 0"),
        ({"sar": -1}, "sar must be finite and at least 0"),
    ],
)
def test_bad_settings(settings_, message):
    with pytest.raises(ValueError, match=message):
        AttentionRefocusing(**settings_)


def test_words_of_one_entity_do_not_repel_each_other():
    """Both words have the same box, so nothing of it is outside of either (section 10, Q4)."""
    maps, method = captured(AttentionRefocusing(sar=0), denoiser_maps()), AttentionRefocusing(sar=0)
    prepared = smooth(token_means(resoftmax(mean_cross(maps, (8, 8)), [slice(1, -1)]), [[1], [2]]))
    terms = car_terms(prepared, [0, 1], method.cells([LEFT, LEFT], (8, 8)), [0, 1], early=True)
    assert terms.outside == 0
    torch.testing.assert_close(terms.total[0], evaluate(method, maps, placed(([1, 2], [LEFT]))).loss)


def test_entity_without_box_takes_no_part():
    maps = denoiser_maps()
    alone = evaluate(AttentionRefocusing(), captured(AttentionRefocusing(), maps), placed(([1, 2], [LEFT]))).loss
    beside = placed(([1, 2], [LEFT]), ([4], []))
    assert evaluate(AttentionRefocusing(), captured(AttentionRefocusing(), maps), beside).loss == alone


def test_tiny_box_gets_a_cell_and_is_empty_in_the_reference():
    maps, now = denoiser_maps(), placed(([1], [(0.51, 0.51, 0.52, 0.52)]), ([4], [RIGHT]))
    default, gradients = loss_and_gradients(AttentionRefocusing(), maps, now)
    assert default.loss.isfinite() and all(g.isfinite().all() for g in gradients)
    reference = AttentionRefocusing(variant="reference")
    assert evaluate(reference, captured(reference, maps), now).loss.isnan()
    car_only = AttentionRefocusing(variant="reference", sar=0)
    filled = placed(([4], [RIGHT]))
    inside = evaluate(car_only, captured(car_only, maps), now).monitor
    torch.testing.assert_close(inside, evaluate(car_only, captured(car_only, maps), filled).monitor)


def test_the_reference_moves_for_the_other_boxes_where_one_is_empty():
    """The loss is NaN, its gradient is that of the other boxes (section 10, Q3)."""
    attention = denoiser_maps().self_attention((8, 8))[0].probabilities
    cells = cell_masks([(0.51, 0.51, 0.52, 0.52), RIGHT], (8, 8), **PUBLISHED).flatten(1)
    with_empty, without = (sar_loss(attention, boxes, 2) for boxes in (cells, cells[1:]))
    assert with_empty.isnan()
    assert torch.equal(gradient(with_empty, attention)[0], gradient(without, attention)[0])


def test_mask_acts_as_the_box_it_fills():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 8:32] = True
    method, maps = AttentionRefocusing(), denoiser_maps()
    by_mask, by_box = (
        evaluate(method, captured(method, maps), placed(([1], [region]), ([4], [RIGHT]))).loss
        for region in (mask, (0.125, 0.25, 0.5, 0.75))
    )
    assert by_mask == by_box


def test_pieces_of_a_word_are_averaged_or_separate_objects():
    maps, now = denoiser_maps(), placed(([[1, 2]], [LEFT]))
    default, reference = AttentionRefocusing(sar=0), AttentionRefocusing(sar=0, variant="reference")
    words = resoftmax(mean_cross(captured(default, maps), (8, 8)), [slice(1, -1)])
    for method, groups in ((default, [[1, 2]]), (reference, [[1], [2]])):
        prepared = smooth(token_means(words, groups))
        cells = method.cells([LEFT], (8, 8))
        terms = car_terms(prepared, [0] * len(groups), cells, [0], True)
        torch.testing.assert_close(evaluate(method, captured(method, maps), now).loss, terms.total[0])


def test_end_of_text_and_padding_stay_out_for_2x_text_encoders():
    maps, method = denoiser_maps(tokens=16), AttentionRefocusing(sar=0)
    plain, dropped = (
        evaluate(method, captured(method, maps), placed(([1], [LEFT]), drop_padding=drop)).loss
        for drop in (False, True)
    )
    assert plain != dropped


@pytest.mark.parametrize("variant", ["default", "reference"])
def test_nan_in_maps_does_not_raise(variant):
    maps, method = denoiser_maps(), AttentionRefocusing(variant=variant)
    with torch.no_grad():
        for m in maps.layers:
            m.probabilities[:, 3] = torch.nan
    assert evaluate(method, captured(method, maps), two_things()).loss.isnan()


layouts = st.lists(st.lists(boxes, min_size=1, max_size=3), min_size=1, max_size=3)


@given(layouts, st.integers(0, 1000), st.sampled_from(["v1", "v2"]), st.integers(0, 49), st.data())
def test_bounds_gradients_and_order(regions, seed, release, index, data):
    maps, method = denoiser_maps(seed), AttentionRefocusing(release=release)
    entities = [([2 * i + 1, 2 * i + 2], own) for i, own in enumerate(regions)]
    result, gradients = loss_and_gradients(method, maps, placed(*entities, index=index))
    assert all(g.isfinite().all() for g in gradients)
    count = sum(map(len, regions))
    most = 6 * count + 4 * count * len(regions) + count / 2 + count
    assert 0 <= result.loss <= most and 0 <= result.monitor <= 1 + 1e-5
    shuffled = [(words, data.draw(st.permutations(own))) for words, own in data.draw(st.permutations(entities))]
    again = evaluate(method, captured(method, maps), placed(*shuffled, index=index))
    torch.testing.assert_close(again.loss, result.loss)


def grounded_maps(seed=0, size=(8, 8)):
    """`denoiser_maps` with gates of a down and an up layer of that size, each a random softmax with 30 tokens."""
    generator, n = torch.Generator().manual_seed(seed), size[0] * size[1] + 30
    gates = [
        LayerMap(
            Layer(f"{place}.fuser.attn", place, False, size, is_grounding=True),
            torch.softmax(3 * torch.randn(2, n, n, generator=generator), -1).requires_grad_(),
        )
        for place in ("down", "up")
    ]
    return AttentionMaps((*denoiser_maps(seed, size).layers, *gates))


def term(method, maps, now):
    """What the grounding term adds to the loss, for each unit of its weight."""
    with_term, without = (
        evaluate(other, captured(other, maps), now).loss for other in (method, dataclasses.replace(method, ground=0.0))
    )
    return (with_term - without) / method.ground


def test_a_box_is_kept_from_the_tokens_of_other_entities_only():
    """Two boxes of "red cat", then one of "frog": tokens 0, 1 and 2."""
    maps, other = grounded_maps(), (0.0, 0.0, 1.0, 0.3)
    now = placed(([1, 2], [LEFT, RIGHT]), ([4], [other]))
    mean = torch.stack([m.probabilities for m in maps.grounding()]).mean(0)
    cells = AttentionRefocusing().cells([LEFT, RIGHT, other], (8, 8)).flatten(1)
    tokens = token_attention(mean[None], cells[None])[0]
    words_of_cat = 2 * (tokens[0, :, 2] + tokens[1, :, 2])
    word_of_frog = tokens[2, :, :2].amax(-1)
    torch.testing.assert_close(term(AttentionRefocusing(), maps, now), (words_of_cat + word_of_frog).mean() / 3)


def test_the_published_term_takes_objects_for_tokens_and_up_layers_twice():
    maps, now = grounded_maps(), placed(([1, 2], [LEFT]), ([4], [RIGHT]))
    method = AttentionRefocusing(variant="reference")
    down, up = (m.probabilities for m in maps.grounding())
    boxes = method.cells([LEFT, LEFT, RIGHT], (8, 8)).flatten(1)
    tokens = token_attention(((down + 2 * up) / 3)[None], boxes[None])[0]
    wanted = grounding_terms(tokens, torch.eye(3, 30, dtype=torch.bool)).sum() / 3
    torch.testing.assert_close(term(method, maps, now), wanted)


def test_a_lone_entity_has_no_other_token():
    assert term(AttentionRefocusing(), grounded_maps(), placed(([1], [LEFT, RIGHT]))) == 0


@pytest.mark.parametrize("method", [AttentionRefocusing(), AttentionRefocusing(variant="reference")])
def test_the_grounding_term_is_early_and_of_the_second_release(method):
    maps, boxes = grounded_maps(), [([1], [LEFT]), ([4], [RIGHT])]
    assert term(method, maps, placed(*boxes, index=14)) > 0 == term(method, maps, placed(*boxes, index=15))
    assert term(dataclasses.replace(method, release="v1"), maps, placed(*boxes)) == 0


def test_gates_are_looked_at_where_they_count():
    layers = [m.layer for m in grounded_maps().layers]
    assert AttentionRefocusing().select_layers(layers) == layers[2:]
    for method in (AttentionRefocusing(ground=0), AttentionRefocusing(release="v1")):
        assert not any(layer.is_grounding for layer in method.select_layers(layers))
    with pytest.raises(ValueError, match=r"no self-attention layer has maps of 8x8"):
        AttentionRefocusing().select_layers([layer for layer in layers if layer.is_cross or layer.is_grounding])


def test_grounded_runs_have_the_published_scale():
    def first_move(method, grounded):
        layout = Layout(((LEFT,),), grounded=grounded)
        return next(method.refine(context([[1]], n_tokens=12, layout=layout)))

    assert [first_move(AttentionRefocusing(), grounded) for grounded in (False, True)] == [40, 4]
    assert first_move(AttentionRefocusing(step_size=8), True) == 8
    assert first_move(AttentionRefocusing(relative_step=0.02), True) == 0.02
