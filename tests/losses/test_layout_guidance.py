import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.attention.layers import Layer
from attncontrol.layout import cell_masks
from attncontrol.losses import Evaluation, LayoutGuidance
from tests.golden import golden_cases
from tests.losses.inputs import evaluate
from tests.losses.layouts import LEFT, boxes, captured, denoiser_maps, loss_and_gradients, moves, placed, sampling
from tests.losses.single import layout_guidance_loss


def close(value):
    return pytest.approx(value, rel=1e-5, abs=1e-8, nan_ok=True)


@pytest.mark.parametrize("case", golden_cases("layout_guidance"))
def test_published_values(case):
    layers = {n: case.tensor(n).float().requires_grad_() for n in case.arrays if not n.startswith("grad_")}
    values = {}
    for name, layer in layers.items():
        side = math.isqrt(layer.shape[1])
        masks = [
            cell_masks(own, (side, side), edges="truncate", at_least_one=False).any(0)
            for own in case["inputs"]["boxes"]
        ]
        values[name] = layout_guidance_loss(layer, case["inputs"]["object_positions"], torch.stack(masks).flatten(1))
    assert {n: v.item() for n, v in values.items()} == close(case["outputs"]["per_layer"])
    total = torch.stack(list(values.values())).mean()
    assert total.item() == close(case["outputs"]["total"])
    for name, grad in zip(layers, torch.autograd.grad(total, list(layers.values())), strict=True):
        torch.testing.assert_close(grad, case.tensor(f"grad_{name}"), rtol=1e-4, atol=1e-8)


def values(*losses):
    """An evaluation at the latents after each number of moves; the last loss stays."""
    return lambda moved: Evaluation(torch.tensor(losses[min(moved, len(losses) - 1)]))


def test_moves_until_the_threshold_is_met_or_five_times():
    now = placed(([1], [LEFT]), index=3, count=50)
    assert moves(LayoutGuidance(), now, values(0.9, 0.5, 0.1)) == [0, 30, 0, 30, 0]
    assert [s for s in moves(LayoutGuidance(), now, values(0.9)) if s] == [30] * 5
    assert moves(LayoutGuidance(), now, values(0.2)) == [0]


def test_reference_tests_after_the_move_and_never_guides_again():
    method = LayoutGuidance(variant="reference")
    fresh = placed(([1], [LEFT]), index=3, count=50)
    assert moves(method, fresh, values(0.9, 0.1)) == [30, 30]
    assert moves(method, fresh, values(0.1)) == [30]
    assert moves(method, fresh, values(0.9)) == [30] * 5
    assert moves(method, dataclasses.replace(fresh, last_loss=0.21), values(0.9)) == [30] * 5
    assert moves(method, dataclasses.replace(fresh, last_loss=0.2), values(0.9)) == []


@pytest.mark.parametrize(("count", "guided"), [(50, 10), (51, 10), (20, 4), (3, 1)])
def test_guides_the_first_fifth_of_sampling(count, guided):
    assert list(sampling(LayoutGuidance(), count, values(0.9))) == list(range(guided))


def test_takes_the_middle_block_and_one_size_of_up_blocks():
    def layer(name, place, side, is_cross=True):
        return Layer(name, place, is_cross, (side, side))

    unet = [
        layer("down.0", "down", 64),
        layer("down.2", "down", 16),
        layer("mid", "mid", 8),
        layer("mid.self", "mid", 8, False),
        layer("up.1.0", "up", 16),
        layer("up.1.1", "up", 16),
        layer("up.1.self", "up", 16, False),
        layer("up.2", "up", 32),
    ]
    assert [m.name for m in LayoutGuidance().select_layers(unet)] == ["mid", "up.1.0", "up.1.1"]
    assert [m.name for m in LayoutGuidance(resolution=32).select_layers(unet)] == ["mid", "up.2"]
    with pytest.raises(ValueError, match="64x64"):
        LayoutGuidance(resolution=64).select_layers(unet)


def test_mean_over_layers_and_all_tokens_of_an_entity():
    maps, method = denoiser_maps(), LayoutGuidance()
    own = captured(method, maps)
    assert [m.layer.place for m in own.layers] == ["mid", "up"]
    losses = []
    for m in own.layers:
        mask = cell_masks([LEFT], m.layer.size).flatten()
        shares = m.probabilities[:, mask].sum(1) / m.probabilities.sum(1)
        losses.append(((1 - shares[:, [1, 2, 4]]) ** 2).mean())
    torch.testing.assert_close(evaluate(method, own, placed(([1, [2, 4]], [LEFT]))).loss, torch.stack(losses).mean())


def test_other_captured_layers_do_not_matter():
    maps, method = denoiser_maps(), LayoutGuidance()
    now = placed(([1], [LEFT]))
    assert evaluate(method, maps, now).loss == evaluate(method, captured(method, maps), now).loss


def test_tiny_box_gets_a_cell_and_is_empty_in_the_reference():
    maps, now = denoiser_maps(), placed(([1], [(0.51, 0.51, 0.52, 0.52)]))
    default, _ = loss_and_gradients(LayoutGuidance(), maps, now)
    reference = LayoutGuidance(variant="reference")
    assert default.loss < 1
    assert evaluate(reference, captured(reference, maps), now).loss == 1


def test_token_without_attention_is_wholly_outside():
    attention = torch.zeros(2, 4, 3)
    attention[..., 0] = 0.5
    attention.requires_grad_()
    loss = layout_guidance_loss(attention, [[0, 1]], torch.tensor([[True, True, False, False]]))
    assert loss.item() == pytest.approx((0.5**2 + 1) / 2)
    assert torch.autograd.grad(loss, attention)[0].isfinite().all()


def test_entity_without_box_takes_no_part():
    method, maps = LayoutGuidance(), captured(LayoutGuidance(), denoiser_maps())
    alone, beside = (
        evaluate(method, maps, now).loss for now in (placed(([1], [LEFT])), placed(([1], [LEFT]), ([4], [])))
    )
    assert alone == beside


def test_mask_acts_as_the_box_it_fills():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 16:32] = True
    maps = captured(LayoutGuidance(), denoiser_maps())
    by_mask, by_box = (
        evaluate(LayoutGuidance(), maps, placed(([1], [region]))).loss for region in (mask, (0.25, 0.25, 0.5, 0.75))
    )
    assert by_mask == by_box


@pytest.mark.parametrize("variant", ["default", "reference"])
def test_nan_in_maps_does_not_raise(variant):
    maps, method = denoiser_maps(), LayoutGuidance(variant=variant)
    with torch.no_grad():
        for m in maps.layers:
            m.probabilities[:, 3] = torch.nan
    assert evaluate(method, captured(method, maps), placed(([1], [LEFT]))).loss.isnan()


layouts = st.lists(st.lists(boxes, min_size=1, max_size=3), min_size=1, max_size=3)


@given(layouts, st.integers(0, 1000), st.data())
def test_bounds_gradients_and_order(regions, seed, data):
    maps, method = denoiser_maps(seed), LayoutGuidance()
    entities = [([2 * i + 1, 2 * i + 2], own) for i, own in enumerate(regions)]
    result, gradients = loss_and_gradients(method, maps, placed(*entities))
    assert all(g.isfinite().all() for g in gradients)
    assert 0 <= result.loss <= 1
    shuffled = [(words, data.draw(st.permutations(own))) for words, own in data.draw(st.permutations(entities))]
    torch.testing.assert_close(evaluate(method, captured(method, maps), placed(*shuffled)).loss, result.loss)


@given(st.integers(0, 1000), st.floats(0.1, 10), boxes)
def test_scale_of_a_map_does_not_matter(seed, scale, box):
    attention = denoiser_maps(seed).cross((8, 8))[0].probabilities
    mask = cell_masks([box], (8, 8)).flatten(1)
    torch.testing.assert_close(
        layout_guidance_loss(attention * scale, [[1]], mask), layout_guidance_loss(attention, [[1]], mask)
    )
