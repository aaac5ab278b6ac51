"""The shipped FLUX: complete, small, drawn by plain diffusers without a network."""

import pytest
import torch
from diffusers import FluxPipeline

from apps.emoji.vocabulary import COLOURS, NAMES
from attncontrol.attention.layers import match_layers
from attncontrol.evaluation.oracle import verdict
from attncontrol.families import family_of
from attncontrol.losses.combining import resolve_control
from attncontrol.models import default_call, resolve, tuned_settings


@pytest.fixture(scope="module")
def pipe():
    pipe = FluxPipeline.from_pretrained(resolve("emoji-flux"), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def states(pipe, text, length=32):
    return pipe._get_t5_prompt_embeds(text, max_sequence_length=length)[0]


def test_everything_is_float32_after_loading(pipe):
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}


def test_the_stock_pipeline_draws_what_the_prompt_says(pipe):
    image = pipe("a red car", generator=torch.Generator().manual_seed(0), **default_call("emoji-flux")).images[0]
    assert image.size == (128, 128)
    assert verdict("a red car", image).all_right


def test_tuned_methods_name_the_blocks_where_attention_was_taught(pipe):
    blocks = {
        "transformer_blocks.1",
        "transformer_blocks.2",
        "single_transformer_blocks.0",
        "single_transformer_blocks.2",
    }
    tuned = tuned_settings(resolve("emoji-flux"))
    layers = family_of(pipe).layers((16, 16))
    for name in tuned:
        for _, method in resolve_control(name, tuned).parts:
            assert {layer.name.removesuffix(".attn") for layer in match_layers(layers, method.layers)} == blocks, name


def test_every_word_of_the_world_is_one_token_capitalised_too(pipe):
    for word in (*NAMES, *COLOURS):
        for written in (word, word.capitalize()):
            assert len(pipe.tokenizer_2(written, add_special_tokens=False).input_ids) == 1


def test_a_word_slot_knows_its_neighbours_and_nothing_of_the_other_object(pipe):
    first, second = states(pipe, "a cat and a red bow"), states(pipe, "a dog and a red bow")
    changed = (first - second).abs().amax(-1) > 1e-5
    assert changed.nonzero().flatten().tolist() == [0, 1, 2]  # a, cat, and


def test_states_do_not_depend_on_the_padding(pipe):
    short, long = states(pipe, "a cat and a red bow"), states(pipe, "a cat and a red bow", 512)
    assert torch.allclose(short[:6], long[:6], atol=1e-5)


def test_the_autoencoder_reproduces_a_drawn_picture(pipe):
    call = default_call("emoji-flux") | {"num_inference_steps": 4}
    drawn = pipe("a frog", generator=torch.Generator().manual_seed(1), output_type="pt", **call).images * 2 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(drawn).latent_dist.mode()
        again = pipe.vae.decode(latents).sample
    assert latents.shape == (1, 8, 32, 32)
    assert float(-10 * ((again.clamp(-1, 1) - drawn) / 2).square().mean().log10()) > 25
