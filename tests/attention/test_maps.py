"""Operations on attention maps by numbers worked out apart, and deferred maps against the same ones that are given."""

import pytest
import torch

from attncontrol.attention import maps as attention_maps
from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import (
    EVERY,
    AttentionMaps,
    Deferred,
    LayerMap,
    Owners,
    gaussian_kernel,
    head_means,
    on_device,
    resoftmax,
    smooth,
    token_means,
)

IMAGES, HEADS, SIZE, KEYS = 3, 2, (4, 5), 7
CROSS = Layer("up_blocks.1.attn2", "up", True, SIZE)
TOKENS = [(2, 3), (0, 1), (2, 6)]


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def leaf():
    return random(IMAGES, HEADS, 20, KEYS).requires_grad_()


@pytest.fixture
def computed():
    """How many probabilities were computed each time."""
    return []


@pytest.fixture(params=["given", "deferred", "deferred in pieces"])
def layer(leaf, computed, request, monkeypatch):
    """A layer whose probabilities are the leaf's."""
    if request.param == "given":
        return LayerMap(CROSS, leaf)
    if request.param == "deferred in pieces":
        monkeypatch.setattr(attention_maps, "PIECE", 250)  # less than those of an image

    def compute(images, queries):
        chosen = leaf[images][:, :, queries]
        computed.append(chosen.numel())
        return chosen

    return LayerMap(CROSS, Deferred(tuple(leaf.shape), compute))


def check(found, expected, leaf):
    """Equal, and with an equal gradient of a sum whose terms weigh differently."""
    assert found.shape == expected.shape
    weights = random(*expected.shape, seed=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    gradients = [torch.autograd.grad((weights * x).sum(), leaf, retain_graph=True)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_probabilities(layer, leaf):
    check(layer.probabilities, leaf, leaf)


def test_the_sum_of_all_heads(layer, leaf, computed):
    found = layer.head_sum()
    if attention_maps.PIECE == 250:  # image by image, 17 queries and then 3
        assert computed == [17 * HEADS * KEYS, 3 * HEADS * KEYS] * IMAGES
    elif computed:
        assert computed == [20 * HEADS * KEYS] * IMAGES
    check(found, leaf[:, 0] + leaf[:, 1], leaf)


@pytest.mark.parametrize("most", [attention_maps.KEPT, 1])
def test_few_are_kept_for_the_backward_pass_and_many_computed_again(leaf, monkeypatch, most):
    monkeypatch.setattr(attention_maps, "KEPT", most)
    times = []
    deferred = Deferred(
        tuple(leaf.shape), lambda images, queries: times.append(images) or leaf[images][:, :, queries].exp()
    )
    found = LayerMap(CROSS, deferred).head_sum()
    check(found, leaf.exp().sum(1), leaf)
    assert times == ([slice(i, i + 1) for i in range(IMAGES)] if most > 1 else [EVERY] * 2)


def test_the_maps_of_tokens(layer, leaf, computed):
    found = layer.of_tokens(TOKENS)
    if attention_maps.PIECE == 250:  # five queries of all images
        assert computed == [5 * IMAGES * HEADS * KEYS] * 4
    check(found, torch.stack([leaf[image, :, :, token] for image, token in TOKENS]), leaf)


def test_a_reduction_is_told_which_images_it_has(layer, leaf, computed):
    factors = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    found = layer.reduce(lambda p, images: factors[images] * p.amax((1, 2, 3)))
    if attention_maps.PIECE == 250:
        assert computed == [20 * HEADS * KEYS] * IMAGES
    check(found, factors * leaf.amax((1, 2, 3)), leaf)


def test_as_many_are_computed_at_a_time_as_fit(leaf, computed, monkeypatch):
    monkeypatch.setattr(attention_maps, "PIECE", 2 * 20 * HEADS * KEYS)
    deferred = Deferred(
        tuple(leaf.shape), lambda images, queries: computed.append(images) or leaf[images][:, :, queries]
    )
    LayerMap(CROSS, deferred).reduce(lambda p, images: p)
    assert computed == [slice(0, 2), slice(2, 3)]
    computed.clear()
    monkeypatch.setattr(attention_maps, "PIECE", leaf.numel())
    LayerMap(CROSS, deferred).reduce(lambda p, images: p)
    assert computed == [EVERY]


def test_shares_of_the_text_alone(layer, leaf):
    found = layer.of_text()
    if layer.attention is leaf:
        assert found is layer  # given ones have no other keys
    else:
        check(found.probabilities, leaf / leaf.sum(-1, keepdim=True), leaf)
    pixels = LayerMap(Layer("up_blocks.1.attn1", "up", False, SIZE), layer.attention)
    assert pixels.of_text() is pixels


def test_text_that_nothing_attends_to_has_no_shares():
    deferred = Deferred((1, 1, 2, 2), lambda images, queries: torch.zeros(1, 1, 2, 2))
    assert LayerMap(CROSS, deferred).of_text().probabilities.tolist() == [[[[0, 0], [0, 0]]]]


def test_rows_of_some_images(layer, leaf):
    rows = AttentionMaps((layer,)).rows([2, 0]).rows([1]).layers[0]
    check(rows.probabilities, leaf[[0]], leaf)
    check(rows.head_sum(), leaf[[0]].sum(1), leaf)
    assert tuple(rows.attention.shape) == (1, HEADS, 20, KEYS)


def test_layers_by_kind_and_size():
    kinds = {
        "cross": Layer("down.0.attn2", "down", True, (4, 5)),
        "fine cross": Layer("up.0.attn2", "up", True, (8, 10)),
        "self": Layer("down.0.attn1", "down", False, (4, 5)),
        "fine self": Layer("up.0.attn1", "up", False, (8, 10)),
        "gate": Layer("down.0.fuser", "down", False, (4, 5), is_grounding=True),
        "fine gate": Layer("up.0.fuser", "up", False, (8, 10), is_grounding=True),
    }
    maps = AttentionMaps(tuple(LayerMap(layer, torch.ones(1, 1, 20, 2)) for layer in kinds.values()))

    def names(found):
        return [name for name, layer in kinds.items() for m in found if m.layer is layer]

    assert names(maps.cross()) == ["cross", "fine cross"] and names(maps.cross((4, 5))) == ["cross"]
    assert names(maps.self_attention()) == ["self", "fine self"]
    assert names(maps.self_attention((8, 10))) == ["fine self"]
    assert names(maps.grounding()) == ["gate", "fine gate"] and names(maps.grounding((4, 5))) == ["gate"]
    assert names(maps.of([kinds["gate"], kinds["cross"]]).layers) == ["cross", "gate"]


def test_the_mean_over_layers_weighs_heads_alike():
    few, many = random(2, 1, 20, 3), random(2, 3, 20, 3, seed=1)
    layers = (LayerMap(Layer("mid", "mid", True, SIZE), few), LayerMap(CROSS, many))
    found = AttentionMaps(layers).mean_cross(SIZE)
    torch.testing.assert_close(found, torch.cat([few, many], 1).mean(1).unflatten(1, SIZE))
    with pytest.raises(ValueError, match=r"no cross-attention layer of size \(8, 8\)"):
        AttentionMaps(layers).mean_cross((8, 8))


OWNERS = Owners((2, 0, 2, 2), 4)  # of images 1 and 3 there is nothing
VALUES = torch.tensor([2.0, -2.0, 4.0, -3.0])


def test_reductions_by_image():
    assert OWNERS.sum(VALUES).tolist() == [-2, 0, 3, 0]
    assert OWNERS.mean(torch.stack([VALUES, 3 * VALUES], 1)).tolist() == [[-2, -6], [0, 0], [1, 3], [0, 0]]
    assert OWNERS.largest(VALUES).tolist() == [-2, 0, 4, 0]
    assert OWNERS.largest(VALUES, none=-torch.inf).tolist() == [-2, -torch.inf, 4, -torch.inf]
    assert Owners((1, 0, 1), 2).largest(VALUES[:3], none=7.0).tolist() == [-2, 4]
    assert OWNERS.padded(VALUES, 9).tolist() == [[-2, 9, 2, 9, 9], [9, 9, 4, 9, 9], [9, 9, -3, 9, 9]]
    assert Owners((), 2).sum(VALUES[:0]).tolist() == [0, 0]


def test_of_equal_largest_ones_the_first_has_the_gradient():
    values = torch.tensor([1.0, 5.0, 5.0], requires_grad=True)
    Owners((0, 0, 0), 1).largest(values).sum().backward()
    assert values.grad.tolist() == [0, 1, 0]


def test_a_softmax_over_spans_of_each_image():
    attention = random(2, *SIZE, KEYS)
    found = resoftmax(attention, [[slice(1, 3), slice(4, 6)], [slice(0, 7)]], 5.0)
    expected = torch.zeros_like(attention)
    expected[0, ..., 1:3] = (5 * attention[0, ..., 1:3]).softmax(-1)
    expected[0, ..., 4:6] = (5 * attention[0, ..., 4:6]).softmax(-1)
    expected[1] = (5 * attention[1]).softmax(-1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(resoftmax(attention, [[EVERY]] * 2), (100 * attention).softmax(-1))


GROUPS = [(1, (1, 2, 5)), (0, (4,))]
TEXT = (slice(0, 4), slice(4, -1))  # of two text encoders; no group has the last key


@pytest.mark.parametrize(
    ("text", "shares"), [((), (1 / 3, 1 / 3, 1 / 3)), ((EVERY,), (1 / 3, 1 / 3, 1 / 3)), (TEXT, (1 / 4, 1 / 4, 1 / 2))]
)
def test_means_of_tokens_weigh_text_encoders_alike(text, shares):
    attention = random(2, *SIZE, KEYS)
    first = sum(share * attention[1, ..., i] for share, i in zip(shares, (1, 2, 5), strict=True))
    expected = torch.stack([first, attention[0, ..., 4]])
    torch.testing.assert_close(token_means(attention, GROUPS, text), expected)
    heads = torch.stack([attention, 2 * attention], 1).flatten(2, 3)
    found = head_means(LayerMap(CROSS, heads.float()), GROUPS, text)
    torch.testing.assert_close(found, torch.stack([expected, 2 * expected], 1).flatten(2).float())


def test_no_groups_have_no_means():
    assert token_means(torch.ones(2, *SIZE, KEYS), []).shape == (0, *SIZE)


def test_the_smoothing_kernel():
    """Its true standard deviation is sigma times the root of 2."""
    x = torch.tensor([-2.0, -1, 0, 1, 2], dtype=torch.float64)
    line = torch.exp(-(x**2) / (2 * (0.7 * 2**0.5) ** 2))
    line = line / line.sum()
    found = gaussian_kernel(5, 0.7, x)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, line[:, None] * line, rtol=0, atol=1e-7)


def test_smoothing_reflects_at_the_border_and_keeps_the_size_unless_told_otherwise():
    maps = random(2, 3, *SIZE)
    kernel = gaussian_kernel(3, 0.5, maps)
    row = [maps[..., 1, :], maps[..., 0, :], maps[..., 1, :]]  # above the first row is the second
    corner = sum(kernel[i, j] * row[i][..., column] for i in range(3) for j, column in enumerate((1, 0, 1)))
    found = smooth(maps)
    torch.testing.assert_close(found[..., 0, 0], corner)
    inner = sum(kernel[i, j] * maps[..., 1 + i, 2 + j] for i in range(3) for j in range(3))
    torch.testing.assert_close(found[..., 2, 3], inner)
    assert found.shape == maps.shape and smooth(maps, 5, 0.5).shape == maps.shape
    assert smooth(maps, 5, 0.5, padding=1).shape == (2, 3, 2, 3)


@pytest.mark.parametrize(("kernel", "shape"), [(9, (4, 5)), (9, (9, 4)), (9, (4, 9))])
def test_a_kernel_too_large_for_the_maps(kernel, shape):
    with pytest.raises(ValueError, match=f"a smoothing kernel of {kernel} is too large"):
        smooth(torch.ones(1, *shape), kernel)
    assert smooth(torch.ones(1, 5, 6), kernel).shape == (1, 5, 6)


def test_constants_are_brought_to_a_device_once():
    meta, here = torch.device("meta"), torch.tensor([1.0, 2.0])
    assert on_device(here, here.device) is here
    assert on_device(torch.tensor([1, 2]), meta) is on_device(torch.tensor([1, 2]), meta)
    assert on_device(torch.tensor([1]), meta).shape == (1,) and on_device(torch.ones(2, 0), meta).shape == (2, 0)
    with torch.inference_mode():
        kept = on_device(torch.tensor([12345.0]), meta)
    assert not kept.is_inference()
