"""Attention maps by processors that are set by hand, and what is read of scaled-dot-product attention."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models import attention_processor as diffusers_attention
from torch import nn

from attncontrol import AttendAndExcite, attach
from attncontrol.attention import maps as attention_maps
from attncontrol.attention.capture import (
    CapturingProcessor,
    ForwardCapture,
    ForwardTruncated,
    deferred_probabilities,
    plain_attention,
)
from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import EVERY, LayerMap
from attncontrol.attention.probabilities import attention_probabilities, column_probabilities
from tests import tiny

PROMPT = "a red cat and a blue frog"


def run(pipe):
    generator = torch.Generator().manual_seed(0)
    return pipe(PROMPT, generator=generator, num_inference_steps=2, output_type="latent").images


def set_by_hand(pipe):
    processors = {name: CapturingProcessor(inner) for name, inner in pipe.unet.attn_processors.items()}
    pipe.unet.set_attn_processor(dict(processors))
    return processors


@pytest.mark.parametrize("sliced", [False, True])
def test_a_processor_set_by_hand_shows_maps_and_changes_no_picture(sliced):
    pipe = tiny.stable_diffusion()
    if sliced:
        pipe.enable_attention_slicing(1)
    plain = run(pipe)
    processors = set_by_hand(pipe)
    assert torch.equal(run(pipe), plain)
    sizes = set()
    for name, processor in processors.items():
        if "attn2" in name:
            rows, heads, queries, positions = processor.maps.shape
            assert (rows, heads, positions) == (2, 4, 77)
            sums = processor.maps.sum(-1)
        else:
            assert processor.maps.shape[0] == 2
            sums = processor.maps.compute(slice(None), slice(None)).sum(-1)
            queries = sums.shape[-1]
        torch.testing.assert_close(sums, torch.ones_like(sums))
        sizes.add(queries)
    assert sizes == {16 * 16, 8 * 8}


def test_maps_by_hand_are_those_of_the_layers_own_query_and_key():
    pipe = tiny.stable_diffusion()
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    layer, seen = pipe.unet.get_submodule(name), []
    layer.to_q.register_forward_hook(lambda module, args, query: seen.append(query))
    layer.to_k.register_forward_hook(lambda module, args, key: seen.append(key))
    processors = set_by_hand(pipe)
    run(pipe)
    query, key = (x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in seen[-2:])
    expected = (query @ key.transpose(-1, -2) * layer.scale).softmax(-1)
    torch.testing.assert_close(processors[f"{name}.processor"].maps, expected)


def test_maps_by_hand_change_nothing_of_a_guided_picture():
    pipe = tiny.stable_diffusion()
    with attach(pipe, AttendAndExcite(step_size=300), prompt=PROMPT):
        guided = run(pipe)
        processors = set_by_hand(pipe)
        assert torch.equal(run(pipe), guided)
    assert all(pipe.unet.attn_processors[name] is processor for name, processor in processors.items())
    assert processors["mid_block.attentions.0.transformer_blocks.0.attn2.processor"].maps.shape == (2, 4, 64, 77)


ROWS, HEADS, LENGTH, WIDTH = 2, 4, 8, 6
SEEN = torch.rand(ROWS, 1, LENGTH, LENGTH, generator=torch.Generator().manual_seed(2)) > 0.3
SEEN[..., 0] = True
MASKS = {
    "none": None,
    "keys of a row": SEEN[:, :, :1],
    "keys of a query": SEEN,
    "the same for all rows": SEEN[:1],
    "numbers": torch.randn(ROWS, 1, LENGTH, LENGTH, generator=torch.Generator().manual_seed(3)),
}
SOME = [(EVERY, EVERY), (slice(1, 2), slice(1, 3)), (torch.tensor([1, 0, 1]), EVERY), (EVERY, slice(0, 1))]


def query_and_key(key_heads=HEADS):
    random = torch.Generator().manual_seed(0)
    return (torch.randn(ROWS, heads, LENGTH, WIDTH, generator=random) for heads in (HEADS, key_heads))


def softmax(query, key, mask, scale):
    """The probabilities, as torch's own attention shows them if every value has a column of its own."""
    values = torch.eye(LENGTH).expand(*key.shape[:2], -1, -1)
    grouped = key.shape[1] != query.shape[1]
    return F.scaled_dot_product_attention(query, key, values, attn_mask=mask, scale=scale, enable_gqa=grouped)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", MASKS)
def test_probabilities_are_those_of_torchs_own_attention(mask, scale):
    query, key = query_and_key()
    expected = softmax(query, key, MASKS[mask], scale)
    torch.testing.assert_close(attention_probabilities(query, key, MASKS[mask], scale), expected)
    for columns in (EVERY, slice(2, 5)):
        deferred = deferred_probabilities(query, key, MASKS[mask], scale, columns)
        assert tuple(deferred.shape) == (ROWS, HEADS, LENGTH, LENGTH)
        for images, queries in SOME:
            found = deferred.compute(images, queries)
            torch.testing.assert_close(found, expected[images][:, :, queries, columns])


class Attention(nn.Module):
    """Hands what it is given to scaled-dot-product attention, as blocks of transformers do, and then other keys."""

    def forward(self, query, key, mask, scale):
        grouped = key.shape[1] != query.shape[1]
        text = F.scaled_dot_product_attention(query, key, key, attn_mask=mask, scale=scale, enable_gqa=grouped)
        return text + F.scaled_dot_product_attention(query, 2 * query, query)


PIXELS = slice(3, None)
PARTS = {
    "the same of every row": [(PIXELS, slice(0, 3))] * ROWS,
    "others of every row": [(PIXELS, slice(0, 3)), (slice(0, 5), slice(6, None))],
    "from before the first key": [(PIXELS, slice(-2, 3))] * ROWS,
    "to the end": [(PIXELS, slice(None))] * ROWS,
}


def text_part(probabilities, queries, columns):
    own = probabilities[:, queries, : columns.stop]
    start = columns.start or 0
    return F.pad(own, (-start, 0)) if start < 0 else own[..., start:]


@pytest.mark.parametrize("key_heads", [HEADS, 2])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("mask", MASKS)
def test_the_images_queries_and_the_texts_keys_are_read_of_every_row(mask, parts, key_heads, monkeypatch):
    query, key = query_and_key(key_heads)
    for scale in (None, 0.3):
        attention = Attention()
        capture = ForwardCapture([], {"attn": attention, "later": Attention()}, PARTS[parts])
        with capture.installed():
            attention(query, key, MASKS[mask], scale)
            deferred = capture.maps["attn"]
        probabilities = softmax(query, key, MASKS[mask], scale)
        texts = [text_part(row, *part) for row, part in zip(probabilities, PARTS[parts], strict=True)]
        longest = max(text.shape[-1] for text in texts)
        expected = torch.stack([F.pad(text, (0, longest - text.shape[-1])) for text in texts])
        assert tuple(deferred.shape) == (ROWS, HEADS, expected.shape[2], LENGTH)
        for images, queries in SOME:
            torch.testing.assert_close(deferred.compute(images, queries), expected[images][:, :, queries])
        monkeypatch.setattr(attention_maps, "PIECE", 100)  # less than those of a row
        layer = Layer("attn", "joint", True, (1, expected.shape[2]))
        torch.testing.assert_close(LayerMap(layer, deferred).head_sum(), expected.sum(1))


@pytest.mark.parametrize("columns", [slice(2, 5), slice(0, 3), slice(-2, None), EVERY])
@pytest.mark.parametrize("mask", MASKS)
def test_the_gradient_of_some_columns_is_that_of_the_whole_softmax(mask, columns):
    leaves = [x.requires_grad_() for x in query_and_key()]
    found = column_probabilities(*leaves, MASKS[mask], 0.3, columns)
    expected = softmax(*leaves, MASKS[mask], 0.3)[..., columns]
    torch.testing.assert_close(found, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((weights * x).sum(), leaves) for x in (found, expected)]
    torch.testing.assert_close(*gradients)
    halves = [x.detach().bfloat16().requires_grad_() for x in leaves]
    of_halves = torch.autograd.grad((weights * column_probabilities(*halves, MASKS[mask], 0.3, columns)).sum(), halves)
    for half, whole in zip(of_halves, gradients[0], strict=True):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0.05)


def test_a_forward_ends_at_the_last_wanted_layer_and_its_modules_are_left_as_they_were():
    first, second, (query, key) = Attention(), Attention(), query_and_key()
    second.forward = own = lambda *args: Attention.forward(second, *args)
    capture = ForwardCapture([], {"first": first, "second": second}, PARTS["to the end"])
    for _ in range(2):
        with capture.installed():
            first(query, key, None, None)
            first(query, key, None, None)  # a checkpointed block runs again
            with pytest.raises(ForwardTruncated):
                second(query, key, None, None)
            assert list(capture.maps) == ["first", "second"]
        assert not capture.maps and "forward" not in vars(first) and vars(second)["forward"] is own


@pytest.mark.parametrize("pixels", [(2, 10, 16), (2, 16, 2, 5)])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"norm_num_groups": 4},
        {"cross_attention_dim": 12},
        {"cross_attention_dim": 12, "cross_attention_norm": "layer_norm"},
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_processors_that_never_call_torchs_attention_have_their_probabilities_recomputed(kind, pixels, masked):
    random = torch.Generator().manual_seed(0)
    layer = diffusers_attention.Attention(16, heads=4, dim_head=4, **kind)
    states = torch.randn(pixels, generator=random)
    text = torch.randn(2, 7, 12, generator=random) if kind.get("cross_attention_dim") else None
    mask = torch.randn(2, 1, 10 if text is None else 7, generator=random) if masked else None
    own, seen = layer.get_attention_scores, []
    layer.get_attention_scores = lambda *scores: seen.append(own(*scores)) or seen[-1]
    processor = CapturingProcessor(diffusers_attention.AttnProcessor())
    processor(layer, states, text, mask)
    found = processor.maps if text is not None else processor.maps.compute(EVERY, EVERY)
    torch.testing.assert_close(found, seen[0].unflatten(0, (2, 4)))


def test_plain_processors_are_put_back_on_any_exit():
    layers = [diffusers_attention.Attention(8, heads=2, dim_head=4) for _ in range(2)]
    own = [layer.processor for layer in layers]
    with pytest.raises(KeyboardInterrupt), plain_attention(layers, diffusers_attention.AttnProcessor):
        assert {type(layer.processor) for layer in layers} == {diffusers_attention.AttnProcessor}
        raise KeyboardInterrupt
    assert [layer.processor for layer in layers] == own
