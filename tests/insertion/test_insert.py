import itertools

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler, FluxControlPipeline, FluxPipeline
from PIL import Image

from attncontrol import AttentionControlPipeline
from attncontrol.families import family_of
from attncontrol.insertion import AddIt
from attncontrol.insertion.arguments import read_source, subject_positions
from attncontrol.insertion.flow import Flow
from tests import tiny_transformers

SOURCE, TARGET = "a cat on a mat", "a cat on a mat and a frog"
SHORT = {"num_inference_steps": 4, "height": 32, "width": 32, "max_sequence_length": 16, "output_type": "latent"}
OFF = {"gamma": 1.0, "joint_stop": 0, "single_stop": 0, "transfer": 0, "blend": []}


@pytest.fixture(scope="module")
def pipe():
    """A controlled tiny random FLUX."""
    controlled = AttentionControlPipeline.from_pipe(tiny_transformers.flux())
    controlled.set_progress_bar_config(disable=True)
    return controlled


@pytest.fixture
def insert(pipe):
    """insert(source, thing, **arguments) -> output of a short run at 32 px, latents by default."""
    return lambda source=SOURCE, thing="a frog", **given: pipe.insert(source, thing, **{**SHORT, **given})


@pytest.fixture
def plain(pipe):
    """plain(prompt, seed) -> latents of the stock pipeline's call."""
    return lambda prompt, seed: pipe(prompt, generator=torch.Generator().manual_seed(seed), **SHORT).images


def photo(size=(48, 40)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def test_the_source_is_the_image_of_its_seed(insert, plain):
    assert torch.equal(insert(seed=3).sources, plain(SOURCE, 3))


def test_without_its_mechanisms_the_image_is_that_of_the_target_prompt(insert, plain):
    output = insert(seed=3, seed_target=5, settings=OFF)
    assert output.prompt == TARGET
    assert torch.equal(output.images, plain(TARGET, 5))


@pytest.mark.parametrize(
    "mechanism",
    [{"joint_stop": 1}, {"single_stop": 1}, {"transfer": 0.5}, {"blend": [0.5]}, {"joint_stop": 1, "gamma": 2}],
)
def test_each_mechanism_alone_changes_the_image_and_no_source(insert, plain, mechanism):
    output = insert(settings={**OFF, **mechanism})
    assert not torch.allclose(output.images, plain(TARGET, 0), atol=1e-5)
    assert torch.equal(output.sources, plain(SOURCE, 0))


def test_the_later_the_transfer_the_nearer_to_the_source(insert):
    outputs = [insert(seed_target=5, settings={**OFF, "transfer": at}) for at in (0.25, 0.75)]
    early, late = ((output.images - output.sources).norm().item() for output in outputs)
    assert late < early / 2


def test_blending_last_leaves_the_source_outside_the_mask(insert):
    output = insert(settings={**OFF, "blend": [1]})
    outside = output.mask.flatten() == 0
    assert 0 < outside.sum() < len(outside)
    torch.testing.assert_close(output.images[:, outside], output.sources[:, outside], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(output.images[:, ~outside], output.sources[:, ~outside], atol=1e-2)


def test_the_weight_is_found_where_it_is_automatic(insert):
    settings = {**OFF, "joint_stop": 1, "gamma": "auto"}
    found = insert(settings=settings)
    assert 1 < found.gamma < 1.2 and found.gamma != 1.05
    given = [insert(settings={**settings, "gamma": gamma}).images for gamma in (found.gamma, 1.05)]
    assert not any(torch.equal(found.images, images) for images in given), "until it is found, gamma is 1.05"


def test_as_published_the_step_that_finds_the_weight_takes_the_velocity_before(insert, monkeypatch):
    velocities, step = [], Flow.step

    def watched(flow, latents, velocity, index):
        velocities.append((index, velocity))
        return step(flow, latents, velocity, index)

    monkeypatch.setattr(Flow, "step", watched)
    for variant in ("reference", "default"):
        settings = {**OFF, "variant": variant, "joint_stop": 1, "gamma": "auto"}
        weigh = AddIt(**settings).plan(8).weigh
        insert(num_inference_steps=8, settings=settings)
        before, there = (dict(velocities)[weigh - 1], dict(velocities)[weigh])
        assert torch.equal(before, there) == (variant == "reference")


def test_a_weight_that_cannot_be_found_in_so_few_steps_is_refused(insert):
    with pytest.raises(ValueError, match="gamma='auto' cannot be found in 1 steps"):
        insert(num_inference_steps=1)


def test_a_segmenter_says_where_the_thing_is(insert):
    pictures = []

    def left_half(picture, points, box):
        pictures.append(picture)
        mask = np.zeros((picture.height, picture.width))
        mask[:, : picture.width // 2] = 1
        return mask

    output = insert(settings={**OFF, "blend": [1]}, segmenter=left_half)
    assert [picture.size for picture in pictures] == [(32, 32)]
    assert (output.mask[:, :4] == 1).all() and (output.mask[:, 5:] == 0).all()


def test_a_picture_that_is_not_drawn_again_is_the_source(pipe, insert):
    output = insert(photo(), prompt=SOURCE, settings={"settle": 0})
    shown = insert(photo(), prompt=SOURCE, settings={"settle": 0}, output_type="pil").sources[0]
    assert shown.size == (32, 32)
    again = insert(shown, prompt=SOURCE, settings={"settle": 0, "inversion": "noise"})
    assert output.sources.shape == again.sources.shape == (1, 64, 16)
    assert not torch.allclose(insert(photo(), prompt=SOURCE).sources, output.sources), "settling changes it"


def test_the_path_of_a_picture_holds_its_row(insert):
    ways = [
        {"inversion": "fixed-point", "offset": False},
        {"inversion": "noise", "offset": False},
        {"inversion": "noise", "offset": True},
    ]
    images = [insert(photo(), prompt=SOURCE, settings=way).images for way in ways]
    assert not any(torch.allclose(a, b) for a, b in itertools.pairwise(images))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_pictures_of_every_mode_and_size_are_taken(insert, mode):
    assert torch.isfinite(insert(photo((70, 33)).convert(mode), prompt=SOURCE).images).all()


def test_sizes_that_are_no_squares(insert):
    output = insert(height=32, width=48, output_type="pil")
    assert output.images[0].size == (48, 32) and output.mask.shape == (8, 12)


def test_the_references_noise_is_the_second_of_a_draw_of_two(pipe, insert):
    reference = insert(seed=3, settings={**OFF, "variant": "reference"})
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    packed = pipe._pack_latents(noise[1:], 1, 4, 16, 16)
    torch.testing.assert_close(reference.images, pipe(TARGET, latents=packed, **SHORT).images, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reference.sources, insert(seed=3, settings=OFF).sources, atol=1e-4, rtol=1e-4)


def test_results_depend_on_the_two_seeds_only(insert):
    first = insert(seed=3, seed_target=4)
    torch.manual_seed(99)
    assert torch.equal(first.images, insert(seed=3, seed_target=4).images)
    assert not torch.allclose(first.images, insert(seed=3, seed_target=5).images)
    assert torch.equal(first.sources, insert(seed=3, seed_target=5).sources)


def test_progress_is_told_to_its_end(insert):
    for source, prompt in ((SOURCE, None), (photo(), SOURCE)):
        told = []
        insert(source, prompt=prompt, on_step=lambda *step: told.append(step))  # noqa: B023
        total = told[-1][1]
        assert told == [(i + 1, total) for i in range(total)]


def test_everything_is_put_back_when_it_is_stopped(pipe, insert):
    before = pipe.scheduler.config, pipe.scheduler.timesteps

    def stop(done, total):
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        insert(on_step=stop)
    assert not any("forward" in vars(module) for module in pipe.transformer.modules())
    assert all(module.processor._attention_backend is None for module in pipe.transformer.modules()
               if hasattr(module, "processor"))  # fmt: skip
    assert (pipe.scheduler.config, pipe.scheduler.timesteps) == before


def test_numbers_that_stop_being_finite_stop_the_run(pipe, insert):
    weight = pipe.transformer.proj_out.weight
    kept = weight.detach().clone()
    weight.data.fill_(torch.nan)
    try:
        with pytest.raises(ValueError, match="the latents are not finite after call 1 of 8 of the model, in the draw"):
            insert()
    finally:
        weight.data.copy_(kept)


def test_a_thing_named_twice_is_meant_where_it_is_named_last(pipe):
    family, prompt = family_of(pipe), "a cat and a cat"
    positions = {published: subject_positions(family, "a cat", prompt, published) for published in (False, True)}
    assert min(positions[False]) > max(positions[True])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt_target": SOURCE}, "the prompts are equal .* must also name 'a frog'"),
        ({"prompt_target": "a cat and a dog"}, "prompt_target 'a cat and a dog' does not name 'a frog'"),
        ({"prompt_target": "a cat and frogs"}, "does not name 'a frog'"),
        ({"prompt_target": " "}, "prompt_target must be a prompt with at least one word"),
        ({"thing": "a "}, "the thing to insert must be named, as 'a cat', got 'a '"),
        ({"thing": None}, "the thing to insert must be named"),
        ({"source": " "}, "source must be a prompt with at least one word, or a picture"),
        ({"source": photo()}, "prompt must say what the picture shows, got None"),
        ({"source": photo((12, 12)), "prompt": SOURCE}, "both sides must have at least 16"),
        ({"source": "none.png", "prompt": SOURCE}, "there is no image at 'none.png'"),
        ({"seed": -1}, "seed must be a whole number from 0 on, got -1"),
        ({"seed_target": 1.5}, "seed_target must be a whole number"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number from 1 to 1000, got 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number from 0 on"),
        ({"max_sequence_length": 513}, "max_sequence_length must be a whole number from 1 to 512"),
        ({"height": 30}, "height must be a positive multiple of 4, got 30"),
        ({"max_sequence_length": 2}, "max_sequence_length=2 cuts off"),
        ({"output_type": "np"}, "output_type must be 'pil' or 'latent', not 'np'"),
        ({"settings": {"gama": 1.1}}, "Add-it has no setting 'gama', did you mean 'gamma'"),
        ({"settings": {"gamma": -1}}, "gamma must be 'auto' or a number above 0"),
        ({"settings": {"layers": "joint.9"}}, "no attention layer matches 'joint.9'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(insert, given, message):
    with pytest.raises(ValueError, match=message):
        insert(**given)


def test_a_pictures_file_without_a_prompt_is_no_prompt(insert, tmp_path):
    photo().save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="is a file: say what the picture shows with prompt="):
        insert(str(tmp_path / "photo.png"))
    assert torch.equal(
        insert(str(tmp_path / "photo.png"), prompt=SOURCE).images, insert(photo(), prompt=SOURCE).images
    )


def test_a_long_prompt_is_no_files_name():
    prompt = "a cat. " * 60
    assert read_source(prompt, None) == (None, prompt)


def test_a_thing_without_pieces_of_its_own_is_refused_as_published(pipe):
    family, prompt = family_of(pipe), "a dog and-a-cat"
    assert subject_positions(family, "cat", prompt, published=False)
    with pytest.raises(ValueError, match="the text encoder has no pieces for 'cat' in 'a dog and-a-cat'"):
        subject_positions(family, "cat", prompt, published=True)


def test_other_things_are_a_type_error(insert):
    with pytest.raises(TypeError, match="image must be a PIL image, a path, an array or a tensor, not int"):
        insert(3, prompt=SOURCE)
    with pytest.raises(TypeError, match="settings must be an AddIt or a mapping"):
        insert(settings="published")


def test_a_unet_is_refused_and_flux_is_named(stock):
    unet = AttentionControlPipeline.from_pipe(stock)
    with pytest.raises(ValueError, match="cannot insert: insertion needs joint attention"):
        unet.insert(SOURCE, "a frog")


def test_other_schedulers_are_refused(pipe, insert, monkeypatch):
    monkeypatch.setattr(pipe, "scheduler", FlowMatchHeunDiscreteScheduler())
    with pytest.raises(ValueError, match="with this FlowMatchHeunDiscreteScheduler: it needs"):
        insert()


def test_a_form_for_controls_is_refused():
    controls = AttentionControlPipeline.from_pipe(tiny_transformers.flux(FluxControlPipeline, channels=32))
    with pytest.raises(ValueError, match="its transformer takes masks or controls beside the latents"):
        controls.insert(SOURCE, "a frog", **SHORT)


def test_settings_given_whole_are_taken_whole(insert):
    settings = AddIt(**OFF)
    assert torch.equal(insert(settings=settings).images, insert(settings=OFF).images)


def test_flux_pipelines_are_loaded_with_it():
    assert issubclass(type(AttentionControlPipeline.from_pipe(tiny_transformers.flux())), FluxPipeline)
