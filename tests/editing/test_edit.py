import pytest
import torch

from attncontrol import AttentionControlPipeline
from tests import tiny

SOURCE, TARGET = "a red car and a cat", "a blue car and a cat"
SHORT = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent"}


@pytest.fixture
def edit(pipe):
    """edit(source, prompt, **arguments) -> output of a short run at 32 px, latents by default."""
    return lambda source=SOURCE, prompt=TARGET, **arguments: pipe.edit(source, prompt, **{**SHORT, **arguments})


def test_the_source_is_the_image_of_its_seed(edit, generate):
    torch.testing.assert_close(edit(seed=3).sources, generate(SOURCE, seed=3).images, atol=1e-4, rtol=1e-4)


def test_without_windows_the_edit_is_the_new_prompts_image_of_the_same_seed(edit, generate):
    output = edit(seed=3, cross=0, self_attention=0)
    torch.testing.assert_close(output.images, generate(TARGET, seed=3).images, atol=1e-4, rtol=1e-4)


def test_each_window_alone_changes_the_edit(edit):
    plain = edit(cross=0, self_attention=0).images
    for windows in ({"cross": 0.5, "self_attention": 0}, {"cross": 0, "self_attention": 0.5}):
        assert not torch.allclose(edit(**windows).images, plain)


def test_a_batch_of_seeds_edits_each_as_alone(edit):
    batch = edit(seed=[3, 4], local="car")
    for i, seed in enumerate((3, 4)):
        alone = edit(seed=seed, local="car")
        torch.testing.assert_close(batch.images[i : i + 1], alone.images, atol=1e-3, rtol=1e-3)


def test_maps_are_the_attention_that_was_used_on_both_sides(edit):
    assert edit().maps is None
    maps = edit(cross=1, record_maps=True, seed=[3, 4]).maps
    assert maps.shape[:4] == (2, 2, 4, 77)
    torch.testing.assert_close(maps[0].sum(2), torch.ones_like(maps[0, :, :, 0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(maps[1], maps[0], atol=1e-5, rtol=1e-4)  # a word swap: all is taken over
    own = edit(cross=0, record_maps=True).maps
    assert not torch.allclose(own[1], own[0], atol=1e-5, rtol=1e-4)


def test_weights_edit_without_a_changed_word(edit):
    output = edit(TARGET, TARGET, weights={"blue": 5.0})
    assert not output.changes
    assert not torch.allclose(output.images, output.sources)


def test_without_guidance_source_and_edit_are_still_told_apart(edit, generate):
    output = edit(seed=3, guidance_scale=1.0)
    source = generate(SOURCE, seed=3, guidance_scale=1.0).images
    torch.testing.assert_close(output.sources, source, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(output.images, output.sources)


def test_attention_that_is_sliced_is_injected_all_the_same(pipe, edit):
    expected = edit(seed=3).images
    pipe.enable_attention_slicing()
    try:
        torch.testing.assert_close(edit(seed=3).images, expected, atol=1e-4, rtol=1e-4)
    finally:
        pipe.disable_attention_slicing()


def test_processors_are_put_back_after_success_and_failure(pipe, edit):
    before = dict(pipe.unet.attn_processors)

    def fail(*_):
        raise KeyboardInterrupt

    edit()
    assert pipe.unet.attn_processors == before
    with pytest.raises(KeyboardInterrupt):
        edit(callback_on_step_end=fail)
    assert pipe.unet.attn_processors == before


def test_velocity_models_can_be_edited():
    pipe = AttentionControlPipeline.from_pipe(tiny.second())
    pipe.set_progress_bar_config(disable=True)
    assert torch.isfinite(pipe.edit(SOURCE, TARGET, **SHORT).images).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": SOURCE}, "the prompts are equal"),
        ({"prompt": " "}, "prompt must be a prompt with at least one word"),
        ({"source": ["a cat"]}, "source must be a prompt"),
        ({"cross": 40}, "cross must be a fraction of the steps from 0 to 1, got 40"),
        ({"self_attention": -1}, "self_attention must be a fraction"),
        ({"local": "dog"}, "local: 'dog' is no word of"),
        ({"local": "ca"}, "local: 'ca' is no word of"),
        ({"weights": {"red": 2.0}}, "weights: 'red' is no word of 'a blue car and a cat'"),
        ({"weights": {"blue": -2.0}}, "the weight of 'blue' must be a number from 0 on"),
        ({"seed": -1}, "seed must be a whole number from 0 on"),
        ({"seed": []}, "seed must be a whole number from 0 on"),
        ({"height": 30}, "height must be a positive multiple of 8, got 30"),
        ({"control": "attend-and-excite"}, "edit takes no 'control'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(edit, arguments, message):
    with pytest.raises(ValueError, match=message):
        edit(**arguments)
