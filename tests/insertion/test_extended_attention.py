import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attncontrol.insertion.extended_attention import ExtendedAttention, extended_attention, text_masses, token_maps

TEXT, IMAGE, HEADS, DIM = 3, 5, 2, 4


@pytest.fixture
def inputs():
    """Query, key and value [2, heads, positions, dim]."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, HEADS, TEXT + IMAGE, DIM, generator=generator) for _ in range(3)]


def attended(query, keys, gamma):
    """The target's attention over the source's image and its own positions, head by head: [heads, positions, keys]."""
    scaled = torch.cat([keys[0][:, TEXT:], gamma * keys[1]], 1)
    return torch.stack([(q @ k.T / DIM**0.5).softmax(-1) for q, k in zip(query, scaled, strict=True)])


@pytest.mark.parametrize("gamma", [1.0, 1.3])
def test_the_target_attends_to_the_sources_image_and_to_itself(inputs, gamma):
    query, key, value = inputs
    found = extended_attention(query, key, value, TEXT, gamma)
    torch.testing.assert_close(found[:1], F.scaled_dot_product_attention(query[:1], key[:1], value[:1]))
    values = torch.cat([value[0][:, TEXT:], value[1]], 1)
    torch.testing.assert_close(found[1], attended(query[1], key, gamma) @ values)


def test_masses_and_maps_are_parts_of_that_attention(inputs):
    query, key, _ = inputs
    whole = attended(query[1], key, 1.2).mean(0)
    keys = torch.cat([key[0][:, TEXT:], 1.2 * key[1]], 1)
    source, target = text_masses(query[1, :, :TEXT], keys, IMAGE)
    assert source.item() == pytest.approx(whole[:TEXT, :IMAGE].sum().item())
    assert target.item() == pytest.approx(whole[:TEXT, IMAGE + TEXT :].sum().item())
    to_image, to_tokens = token_maps(query[1], keys, [2, 1], TEXT)
    torch.testing.assert_close(to_image, whole[[2, 1], IMAGE + TEXT :])
    torch.testing.assert_close(to_tokens, whole[TEXT:, [IMAGE + 2, IMAGE + 1]].T)


class Attention(nn.Module):
    """What a block has: one scaled-dot-product attention, then one of an image prompt."""

    def forward(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value), F.scaled_dot_product_attention(query, value, key)


def test_only_the_first_attention_of_chosen_layers_changes_and_only_inside(inputs):
    modules = {"a": Attention(), "b": Attention()}
    plain = modules["a"](*inputs)
    attention = ExtendedAttention(modules, [], TEXT, [1])
    attention.layers, attention.gamma = frozenset({"a"}), 1.2
    with attention.installed():
        first, second = modules["a"](*inputs)
        torch.testing.assert_close(first, extended_attention(*inputs, TEXT, 1.2))
        assert torch.equal(second, plain[1]) and torch.equal(modules["b"](*inputs)[0], plain[0])
    assert torch.equal(modules["a"](*inputs)[0], plain[0]) and "forward" not in vars(modules["a"])


def test_a_call_of_the_target_alone_is_recorded(inputs):
    module = Attention()
    attention = ExtendedAttention({"a": module}, [], TEXT, [1])
    attention.recorded = frozenset({"a"})
    alone = [tensor[1:] for tensor in inputs]
    with attention.installed():
        assert torch.equal(module(*alone)[0], F.scaled_dot_product_attention(*alone))
    (maps,) = attention.seen["a"]
    torch.testing.assert_close(maps, token_maps(alone[0][0], alone[1][0], [1], TEXT))
