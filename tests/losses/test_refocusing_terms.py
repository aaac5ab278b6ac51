import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap, smooth
from attncontrol.layout import cell_masks
from attncontrol.losses.refocusing_terms import grounding_terms, token_attention
from tests.golden import golden_cases
from tests.layout.published import published_objects
from tests.losses.inputs import attentions, gradient, mean_cross
from tests.losses.layouts import LEFT, RIGHT, boxes, denoiser_maps
from tests.losses.single import car_terms, resoftmax, sar_loss, token_means

PUBLISHED = {"edges": "truncate", "at_least_one": False}


def flat_boxes(case, size):
    """All boxes as cells, and the object of each."""
    boxes = case["inputs"]["boxes"]
    owners = torch.tensor([o for o, own in enumerate(boxes) for _ in own])
    return cell_masks([box for own in boxes for box in own], size, **PUBLISHED), owners


def published_car(case, attention):
    groups = [[p] for own in case["inputs"]["object_positions"] for p in own]
    owners = [o for o, own in enumerate(case["inputs"]["object_positions"]) for _ in own]
    maps = token_means(resoftmax(attention, [slice(1, -1)]), groups)
    if case["kwargs"].get("smooth_att", True):
        maps = smooth(maps, case["kwargs"].get("kernel_size", 3), case["kwargs"].get("sigma", 0.5), padding=1)
    boxes, box_owners = flat_boxes(case, tuple(attention.shape[:2]))
    release = "v1" if case["kind"] == "car_v1" else "v2"
    return car_terms(maps, owners, boxes, box_owners.tolist(), case["inputs"]["t"] < 15, release)


def leaves(case, prefix):
    """The layers of one kind, as float32 leaves by name."""
    return {n: case.tensor(n).float().requires_grad_() for n in sorted(case.arrays) if n.startswith(prefix)}


def published_sar(case, layers):
    values = {}
    for name, layer in layers.items():
        side = math.isqrt(layer.shape[1])
        boxes, _ = flat_boxes(case, (side, side))
        values[name] = sar_loss(layer, boxes.flatten(1), len(case["inputs"]["boxes"]))
    return values


def published_ground(case, layers):
    boxes, owners = flat_boxes(case, (16, 16))
    mean = torch.stack(list(layers.values())).mean(0)
    tokens = token_attention(mean[None], boxes.flatten(1)[None])[0]
    own = torch.arange(tokens.shape[-1]) == owners[:, None]
    return (case["inputs"]["t"] < 15) * grounding_terms(tokens, own).sum() / (owners.max() + 1), mean


def assert_gradients(total, inputs, case):
    for (name, _), grad in zip(inputs.items(), gradient(total, *inputs.values()), strict=True):
        assert_gradient(grad, case.tensor(f"grad_{name}"))


def assert_gradient(grad, expected):
    """Where a token takes nearly all attention the softmax's gradient is a rounding error, hence not atol=1e-7."""
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=max(1e-7, 1e-6 * expected.abs().max().item()))


def close(value):
    return pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize(
    "case", golden_cases("attention_refocusing", "car") + golden_cases("attention_refocusing", "car_v1")
)
def test_published_car(case):
    layers = [case.tensor(name) for name in sorted(case.arrays) if name.startswith("layer_")]
    attention = case.tensor("cross" if "cross" in case else "cross_aggregated", requires_grad=True)
    if layers:
        size = tuple(attention.shape[:2])
        maps = [LayerMap(Layer(str(i), "up", True, size), own) for i, own in enumerate(layers)]
        torch.testing.assert_close(mean_cross(AttentionMaps(tuple(maps)), size), attention.detach())
    terms, expected = published_car(case, attention), case["outputs"]
    for name, value in expected.items():
        assert getattr(terms, name).item() == close(value), name
    (grad,) = gradient(terms.total, attention)
    (name,) = (n for n in case.arrays if n.startswith("grad_") and "layer" not in n)
    assert_gradient(grad, case.tensor(name))


@pytest.mark.parametrize("case", golden_cases("attention_refocusing", "sar"))
def test_published_sar(case):
    layers = leaves(case, "self_")
    values = published_sar(case, layers)
    assert {n: v.item() for n, v in values.items()} == close(case["outputs"]["per_layer"])
    total = torch.stack(list(values.values())).mean()
    assert total.item() == close(case["outputs"]["total"])
    assert_gradients(total, layers, case)


@pytest.mark.parametrize("case", golden_cases("attention_refocusing", "ground"))
def test_published_grounding_term(case):
    layers = leaves(case, "ground_")
    total, mean = published_ground(case, layers)
    assert total.item() == close(case["outputs"]["total"])
    if "unused_self_term" in case["outputs"]:
        boxes, _ = flat_boxes(case, (16, 16))
        leak = sar_loss(mean[:, :256, :256], boxes.flatten(1), len(case["inputs"]["boxes"]))
        assert leak.item() == close(case["outputs"]["unused_self_term"])
    assert_gradients(total, layers, case)


@pytest.mark.parametrize("case", golden_cases("attention_refocusing", "total"))
def test_published_total(case):
    scale, expected = case["kwargs"]["loss_scale"], case["outputs"]
    cross, self_layers, ground_layers = (leaves(case, prefix) for prefix in ("cross", "self_", "ground_"))
    car = published_car(case, cross["cross"])
    sar = torch.stack(list(published_sar(case, self_layers).values())).mean()
    ground, _ = published_ground(case, ground_layers)
    total = scale * (car.total + sar + case["kwargs"]["ground_weight"] * ground)
    terms = {"car_scaled": car.total, "sar_scaled": sar, "ground_scaled": case["kwargs"]["ground_weight"] * ground}
    assert {name: scale * term.item() for name, term in terms.items()} == close({n: expected[n] for n in terms})
    assert total.item() == close(expected["total"])
    assert (car.min_inside.item(), car.max_outside.item()) == close((expected["min_inside"], expected["max_outside"]))
    assert_gradients(total, {**cross, **self_layers, **ground_layers}, case)


@pytest.mark.parametrize("case", golden_cases("attention_refocusing", "phrases"))
def test_published_phrases(case):
    inputs, expected = case["inputs"], case["outputs"]
    found = published_objects(inputs["prompt"], inputs["names"], inputs["boxes_px"])
    assert list(found.words) == expected["words"]
    assert [list(p) for p in found.positions] == expected["object_positions"]
    assert [[list(box) for box in own] for own in found.boxes] == expected["boxes"]
    assert list(found.phrases) == expected["grounding_phrases"]
    assert [list(box) for box in found.phrase_boxes] == expected["grounding_boxes"]


@given(attentions, boxes)
def test_one_object_has_no_outside_term(attention, box):
    size = tuple(attention.shape[:2])
    maps = smooth(token_means(resoftmax(attention, [slice(1, -1)]), [[1]]))
    terms = car_terms(maps, [0], cell_masks([box], size), [0], early=True)
    assert terms.outside == 0 and terms.max_outside == 0
    assert 0 <= terms.inside <= 6 and 0 <= terms.background <= 0.5 * (1 + 1e-5)


INSIDE = [(0.05, 6, 6), (0.1, 1, 1), (0.15, 1, 1), (0.2, 1, 0), (0.3, 1, 0)]
OUTSIDE = [(0.05, 1, 0), (0.1, 1, 0), (0.12, 1, 1), (0.15, 1, 1), (0.16, 4, 4)]


@pytest.mark.parametrize(("inside", "outside"), list(zip(INSIDE, OUTSIDE, strict=True)))
def test_weights_change_behind_their_bounds(inside, outside):
    """One object fills its cell and shuns the other's; another object's maxima are those of the table."""
    cells = torch.tensor([[[True, False]], [[False, True]]])
    maps = torch.tensor([[[inside[0], outside[0]]], [[0.0, 1.0]]])
    for early, own, other in ((True, inside[1], outside[1]), (False, inside[2], outside[2])):
        terms = car_terms(maps, [0, 1], cells, [0, 1], early=early)
        assert terms.inside.item() == pytest.approx(own * (1 - inside[0]) / 2)
        assert terms.outside.item() == pytest.approx(other * outside[0] / 2)
        plain = car_terms(maps, [0, 1], cells, [0, 1], early=early, release="v1")
        assert plain.inside.item() == pytest.approx((1 - inside[0]) / 2)
        assert plain.outside.item() == pytest.approx(outside[0] / 2)


@given(st.integers(0, 1000), st.lists(boxes, min_size=1, max_size=4))
def test_leak_is_the_attention_that_leaves_a_box(seed, regions):
    attention = denoiser_maps(seed).self_attention((8, 8))[0].probabilities.detach()
    cells = cell_masks(regions, (8, 8)).flatten(1)
    leaks = [sar_loss(attention, cell[None], 1) for cell in cells]
    for cell, leak in zip(cells, leaks, strict=True):
        torch.testing.assert_close(leak, 1 - attention[:, cell][:, :, cell].sum(-1).mean())
    torch.testing.assert_close(sar_loss(attention, cells, 2), sum(leaks) / 2)


def test_grounding_term_leaves_an_objects_own_token_out():
    attention = torch.zeros(1, 19, 19)
    attention[:, :, 16] = 0.9
    attention[:, :, 17] = 0.3
    tokens = token_attention(attention[None], cell_masks([LEFT, RIGHT], (4, 4)).flatten(1)[None])[0]
    own = torch.tensor([[True, False, False], [False, True, False]])
    torch.testing.assert_close(grounding_terms(tokens, own), torch.tensor([0.3, 0.9]))


def test_an_empty_box_has_no_attention_to_grounding_tokens_and_no_gradient():
    attention = torch.rand(1, 2, 19, 19, generator=torch.Generator().manual_seed(0)).requires_grad_()
    boxes = torch.zeros(1, 2, 16, dtype=torch.bool)
    boxes[0, 1, 3:5] = True
    tokens = token_attention(attention, boxes)
    assert tokens[0, 0].isnan().all()
    torch.testing.assert_close(tokens[0, 1], attention[0, :, 3:5, 16:].mean(1))
    expected = torch.zeros_like(attention)
    expected[0, :, 3:5, 16:] = 1 / 2
    assert torch.equal(gradient(tokens.sum(), attention)[0], expected)
