import copy
import functools

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image

from attncontrol import AttentionControlPipeline
from attncontrol.editing import DynamicPromptLearning, Inversion, NullText
from attncontrol.editing.cost import inversion_cost
from attncontrol.families import family_of
from tests import tiny

PROMPT, TARGET = "a cat and a dog", "a lion and a dog"
SHORT = {"num_inference_steps": 3, "height": 32, "width": 32, "guidance_scale": 3.0}
METHODS = ("ddim", "null-text", "dpl")


def picture(seed=0, size=(32, 32)):
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def short_inversion(pipe, method="null-text", image=None, prompt=PROMPT, **arguments):
    few = {"null_text": NullText(iterations=2), "learning": DynamicPromptLearning(looks=2)}
    return pipe.invert(image or picture(), prompt, method, **{**SHORT, **few, **arguments})


@pytest.fixture
def invert(pipe):
    """invert(method, **arguments) -> the inversion of a picture by a short run at 32 px."""

    return functools.partial(short_inversion, pipe)


@pytest.fixture(scope="module")
def inverted(pipe):
    """inverted(method) -> what `invert(method)` gives, made once; tests must leave it as it is."""
    return functools.cache(lambda method: short_inversion(pipe, method))


def same(a, b):
    """Whether two inversions hold the same, bit for bit."""
    return a.losses == b.losses and all(
        (x is None) == (y is None) and (x is None or torch.equal(x, y))
        for x, y in ((getattr(a, n), getattr(b, n)) for n in ("latents", "null", "tokens", "sampled", "background"))
    )


def reconstruction_error(pipe, inversion):
    found = pipe.reconstruct(inversion, output_type="latent").images
    return float(((found - inversion.latents[:1]) ** 2).mean())


def test_null_text_comes_nearer_to_the_picture_than_ddim(pipe, invert, inverted):
    plain = reconstruction_error(pipe, inverted("ddim"))
    assert reconstruction_error(pipe, invert("null-text", null_text=NullText(iterations=10))) < 0.95 * plain


def test_reconstruction_repeats_what_was_sampled_while_learning(pipe, inverted):
    for method in ("null-text", "dpl"):
        inversion = inverted(method)
        found = pipe.reconstruct(inversion, output_type="latent").images[0]
        torch.testing.assert_close(found, inversion.sampled, atol=1e-4, rtol=1e-4)


def test_the_nouns_of_the_prompt_are_learned_at_every_step(pipe, invert, inverted):
    inversion = inverted("dpl")
    assert [name for name, _ in inversion.nouns] == ["cat", "dog"]
    own = pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer("cat dog")["input_ids"][1:3]]
    assert inversion.tokens.shape == (3, 2, own.shape[1])
    assert all((step != own).any() for step in inversion.tokens)
    only = invert("dpl", nouns=["dog"])
    assert [name for name, _ in only.nouns] == ["dog"] and len(only.tokens[0]) == 1


def test_learning_off_is_null_text_inversion(invert, inverted):
    off = invert("dpl", learning=DynamicPromptLearning(looks=0), background=None)
    plain = inverted("null-text")
    torch.testing.assert_close(off.null, plain.null, atol=1e-5, rtol=1e-5)


def test_a_step_that_is_good_enough_learns_nothing(invert):
    easy = DynamicPromptLearning(balancing_target=(9.0, 1e9), disjoint_target=(9.0, 1e9))
    losses = invert("dpl", null_text=NullText(tolerance=(10.0, 0.0)), background=None, learning=easy).losses
    assert [(len(step["null"]), len(step["nouns"])) for step in losses] == [(1, 1)] * 3


@pytest.mark.parametrize("background", [None, np.tri(32)])
def test_a_background_mask_is_used_as_given(invert, background):
    found = invert("dpl", background=background)
    assert (found.background is None) == (background is None)
    if background is not None:
        assert found.background.shape == (16, 16) and found.background.triu(1).sum() == 0
    assert all((step["nouns"][0][3] > 0) == (background is not None) for step in found.losses)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_inversion_is_read_back_whole(inverted, tmp_path, method):
    inversion = inverted(method)
    inversion.save(tmp_path / "one")
    again = Inversion.load(tmp_path / "one")
    assert same(inversion, again) and again == again.load(tmp_path / "one").__class__(**vars(again))
    with pytest.raises(ValueError, match="is already there"):
        inversion.save(tmp_path / "one")


@pytest.mark.parametrize("method", ["null-text", "dpl"])
def test_an_interrupted_inversion_goes_on_to_the_same_result(invert, inverted, tmp_path, method):
    path, told = tmp_path / "one", []

    def stop(done, total):
        told.append(done)
        if len(told) == 5:  # the inversion's three steps, and two of learning
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        invert(method, path=path, on_step=stop)
    assert told == [1, 2, 3, 1, 2] and Inversion.load(path).learned == 2
    told.clear()
    again = invert(method, path=path, on_step=lambda done, total: told.append(done))
    assert told == [3], "only the missing step is done"
    assert same(again, inverted(method)) and same(again, Inversion.load(path))


def test_a_path_that_holds_another_inversion_is_refused_with_what_differs(invert, tmp_path):
    invert("null-text", path=tmp_path / "one")
    for arguments, message in (
        ({"prompt": TARGET}, "prompt: a cat and a dog there, a lion and a dog here"),
        ({"image": picture(1)}, "image: "),
        ({"null_text": NullText(iterations=3)}, "settings: "),
        ({"num_inference_steps": 4}, "steps: 3 there, 4 here"),
    ):
        with pytest.raises(ValueError, match="holds another inversion") as error:
            invert("null-text", path=tmp_path / "one", **arguments)
        assert message in str(error.value)


def test_a_batch_inverts_each_as_alone(invert, inverted):
    prompts = [PROMPT, "a frog"]
    batch = invert("null-text", image=[picture(), picture(1)], prompt=prompts)
    assert same(batch[0], inverted("null-text")) and same(batch[1], invert(image=picture(1), prompt="a frog"))


def test_an_edit_of_an_inversion_keeps_its_reconstruction_as_the_source(pipe, inverted):
    for method in METHODS:
        inversion = inverted(method)
        output = pipe.edit(inversion, TARGET, output_type="latent")
        expected = pipe.reconstruct(inversion, output_type="latent").images
        torch.testing.assert_close(output.sources, expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(output.images, output.sources)
        assert [change.text for change in output.changes] == ["cat -> lion"]


def test_learned_nouns_stand_in_the_edited_prompt_where_their_words_do(pipe, inverted):
    inversion = copy.deepcopy(inverted("dpl"))
    with_tokens = pipe.edit(inversion, "a lion and a red dog", output_type="latent").images
    inversion.tokens = inversion.tokens + torch.tensor([[[0.0], [1.0]]])  # the dog's only
    assert not torch.allclose(pipe.edit(inversion, "a lion and a red dog", output_type="latent").images, with_tokens)


def test_the_published_prompt_to_prompt_edits_as_well(pipe, invert):
    inversion = invert(
        "dpl", learning=DynamicPromptLearning.published(looks=2), null_text=NullText.published(iterations=2)
    )
    output = pipe.edit(inversion, TARGET, variant="reference", local="lion", output_type="latent")
    assert output.images.isfinite().all() and not torch.allclose(output.images, output.sources)


def test_nothing_is_left_behind(pipe, invert):
    before = tiny.state(pipe), [p.requires_grad for p in pipe.text_encoder.parameters()]
    hooks = pipe.text_encoder.get_input_embeddings()._forward_hooks

    def stop(done, total):
        raise KeyboardInterrupt

    pipe.edit(invert("dpl", memory="low"), TARGET)
    with pytest.raises(KeyboardInterrupt):
        invert("dpl", on_step=stop)
    assert (tiny.state(pipe), [p.requires_grad for p in pipe.text_encoder.parameters()]) == before
    assert not hooks


def test_low_memory_changes_no_number_much(invert, inverted):
    fast, low = inverted("dpl"), invert("dpl", memory="low")
    torch.testing.assert_close(low.sampled, fast.sampled, atol=1e-3, rtol=1e-3)


def test_velocity_models_can_be_inverted():
    pipe = AttentionControlPipeline.from_pipe(tiny.second())
    pipe.set_progress_bar_config(disable=True)
    inversion = pipe.invert(picture(), PROMPT, null_text=NullText(iterations=2), **SHORT)
    assert pipe.reconstruct(inversion, output_type="latent").images.isfinite().all()


def test_the_cost_counts_what_is_done_at_most(pipe, invert):
    calls = []
    handle = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    try:
        invert("null-text", null_text=NullText(iterations=4, tolerance=(0.0, 0.0)))
    finally:
        handle.remove()
    cost = inversion_cost(family_of(pipe), (16, 16), "null-text", 3, null_text=NullText(iterations=4))
    assert (calls.count(False), calls.count(True)) == (cost.forwards, cost.learning)
    assert cost.peak_bytes > inversion_cost(family_of(pipe), (16, 16), "ddim", 3).peak_bytes > 0


def test_numbers_that_stop_being_finite_stop_the_inversion_and_keep_what_is_saved(pipe, invert, inverted, tmp_path):
    weight = pipe.unet.conv_out.bias

    def spoil(done, total):
        spoil.calls += 1
        if spoil.calls == 4:  # after the first step of learning
            weight.data.fill_(float("nan"))

    spoil.calls, kept = 0, weight.data.clone()
    try:
        with pytest.raises(ValueError, match=r"not finite after step 2 of 3 of the learning; the steps before it are"):
            invert("null-text", path=tmp_path / "one", on_step=spoil)
    finally:
        weight.data.copy_(kept)
    assert Inversion.load(tmp_path / "one").learned == 1
    assert same(invert("null-text", path=tmp_path / "one"), inverted("null-text"))


def other_scheduler(inversion):
    inversion.scheduler["beta_end"] = 0.02
    return r"another scheduler: beta_end: 0.02 there, 0.012 here"


def other_model(inversion):
    inversion.model["UNet weights"][3] += 1
    return r"another model: the UNet weights differ"


def other_width(inversion):
    inversion.model["text width"] = 768
    return r"another model: text width: 768 there, 32 here"


def unfinished(inversion):
    inversion.losses.pop()
    return r"unfinished: 2 of 3 steps are done"


@pytest.mark.parametrize("change", [other_scheduler, other_model, other_width, unfinished])
def test_an_inversion_that_does_not_fit_is_refused_with_what_differs(pipe, inverted, change):
    inversion = copy.deepcopy(inverted("null-text"))
    message = change(inversion)
    for use in (pipe.reconstruct, lambda inversion: pipe.edit(inversion, TARGET)):
        with pytest.raises(ValueError, match=message):
            use(inversion)


@pytest.mark.parametrize("content", [None, b"", b"not a file of tensors" * 10, "model", "cut", "json"])
def test_a_file_that_is_no_inversion_is_refused_with_a_sentence(inverted, tmp_path, content):
    path = tmp_path / "one"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "model":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(2)}, path)
    elif content is not None:
        inverted("ddim").save(path)
        data = path.read_bytes()
        path.write_bytes(data[:-40] if content == "cut" else data.replace(b"ddim", b"dpl2"))
    with pytest.raises(ValueError, match=r"there is no inversion at|cannot be read|is no inversion|damaged inversion"):
        Inversion.load(path)


def test_a_scheduler_without_inverse_is_refused_with_the_remedy(stock):
    other = tiny.stable_diffusion(**{**stock.components, "scheduler": tiny.scheduler(EulerDiscreteScheduler)})
    pipe = AttentionControlPipeline.from_pipe(other)
    with pytest.raises(ValueError, match=r"EulerDiscreteScheduler, which has no inverse: set pipe.scheduler = DDIM"):
        pipe.invert(picture(), PROMPT, **SHORT)
    pipe.scheduler = tiny.scheduler(clip_sample=True)
    with pytest.raises(ValueError, match=r"clip_sample=True, and what it cuts off cannot be inverted"):
        pipe.invert(picture(), PROMPT, **SHORT)


def test_xl_is_refused_by_name():
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion_xl())
    with pytest.raises(ValueError, match="cannot invert: its text states come from two encoders"):
        pipe.invert(picture(), PROMPT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": " "}, "prompt must say what the picture shows"),
        ({"method": "magic"}, "method must be 'ddim', 'null-text', 'dpl', not 'magic'"),
        ({"num_inference_steps": 2000}, "num_inference_steps must be a whole number from 1 to 1000, got 2000"),
        ({"guidance_scale": 1.0}, "'null-text' learns for guided sampling"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number from 0 on"),
        ({"height": 30}, "height must be a positive multiple of 8, got 30"),
        ({"method": "dpl", "prompt": "and"}, "names nothing that could be learned"),
        ({"method": "dpl", "nouns": ["horse"]}, "horse"),
        ({"method": "dpl", "background": "sky"}, "background must be 'auto', None, or a mask"),
        ({"memory": "none"}, "memory must be 'fast' or 'low'"),
        ({"image": [picture()], "prompt": "a cat"}, "1 images need as many prompts in a list"),
    ],
)
def test_what_cannot_be_inverted_is_refused_with_a_sentence(invert, arguments, message):
    with pytest.raises(ValueError, match=message):
        invert(**arguments)


def test_an_inversion_takes_nothing_that_it_has_itself(pipe, inverted):
    inversion = inverted("ddim")
    for arguments, message in (
        ({"seed": 1}, "an inversion has its own noise"),
        ({"guidance_scale": 2.0}, "leave 'guidance_scale' out"),
        ({"height": 32}, "leave 'height' out"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.edit(inversion, TARGET, **arguments)
    with pytest.raises(ValueError, match="the prompts are equal"):
        pipe.edit(inversion, PROMPT)
    with pytest.raises(ValueError, match="give an Inversion"):
        pipe.reconstruct("one.safetensors")
