"""Attention maps by processors that are set by hand."""

import pytest
import torch

from attncontrol import AttendAndExcite, attach
from attncontrol.attention.capture import CapturingProcessor
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
