"""The controlled pipeline: everything the stock call can do, with and without control."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionPipeline, UNet2DModel
from PIL import Image

from attncontrol import AttendAndExcite, AttentionControlPipeline, SynGen
from tests import tiny

QUICK = AttendAndExcite(thresholds={0: 0.9}, max_refinement_steps=2, step_size=100)
NEVER = AttendAndExcite(thresholds={}, start=0.5, stop=0.5)
PROMPTS = ["a cat and a frog", "a red car and a small dog"]


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_callback_sees_the_record_of_the_running_call(pipe, generate):
    seen = []

    def look(running, _index, _timestep, tensors):
        record = running.control_record
        seen.append((len(record.images[0].steps), len(record.images[0].maps)) if record else None)
        return tensors

    generate(control=NEVER, record_maps=True, callback_on_step_end=look)
    generate(callback_on_step_end=look)
    with pytest.raises(ZeroDivisionError):
        generate(control=NEVER, callback_on_step_end=lambda *_: 1 // 0)
    assert seen == [(1, 1), (2, 2), (3, 3), (4, 4), None, None, None, None]
    assert pipe.control_record is None


@pytest.mark.parametrize("control", [None, NEVER, 0 * QUICK], ids=["none", "never guides", "weight 0"])
def test_without_guidance_images_are_those_of_the_stock_pipeline(stock, generate, control):
    expected = stock(
        PROMPTS[0],
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=4,
        height=32,
        width=32,
        output_type="latent",
    ).images
    assert torch.equal(generate(control=control).images, expected)


def test_a_prompt_batch_equals_single_prompts(generate):
    together = generate(PROMPTS, seed=None, generator=seeded(1, 2), control=QUICK)
    for i, prompt in enumerate(PROMPTS):
        alone = generate(prompt, seed=i + 1, control=QUICK)
        torch.testing.assert_close(together.images[i], alone.images[0], rtol=1e-3, atol=2e-3)
        assert together.control.images[i].subjects == alone.control.images[0].subjects


def test_several_images_per_prompt_each_have_their_own_loss(generate):
    output = generate(PROMPTS, seed=None, num_images_per_prompt=2, generator=seeded(1, 2, 3, 4), control=QUICK)
    assert [list(image.subjects) for image in output.control.images] == [["cat", "frog"]] * 2 + [
        ["red car", "small dog"]
    ] * 2
    alone = generate(PROMPTS[1], seed=4, control=QUICK)
    torch.testing.assert_close(output.images[3], alone.images[0], rtol=1e-3, atol=2e-3)


def test_the_record_says_what_was_guided(generate):
    image = generate(control=QUICK).control.images[0]
    assert image.subjects == {"cat": (2,), "frog": (5,)}
    assert [step.refinements for step in image.steps] == [2, 0, 0, 0]
    assert [step.moved for step in image.steps] == [True, True, False, False]
    losses = [step.losses.get("attend-and-excite", []) for step in image.steps]
    assert [len(values) for values in losses] == [3, 1, 0, 0]
    assert losses[0][0] > losses[0][1] > losses[0][2], "each refinement move lowers the loss"


def test_maps_are_recorded_on_request_with_and_without_control(generate):
    for control in (None, QUICK):
        image = generate(control=control, record_maps=True).control.images[0]
        assert image.maps.shape == (4, 2, 16, 16)
        assert image.maps.dtype == torch.float32
        assert (image.maps > 0).all() and (image.maps < 1).all()
    assert torch.equal(generate(record_maps=True).images, generate().images)


def test_methods_add_up(generate):
    both, zero, one = (
        generate(PROMPTS[1], control=control, num_inference_steps=2)
        for control in (QUICK + 0.5 * SynGen(step_size=100), QUICK + 0 * SynGen(), QUICK)
    )
    image = both.control.images[0]
    assert [len(values) for values in image.steps[0].losses.values()] == [3, 1], "refinement evaluates one part only"
    assert not torch.equal(both.images, one.images)
    assert torch.equal(zero.images, one.images)


@pytest.mark.parametrize("memory", ["fast", "low"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_changes_memory_only(memory, checkpointing):
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion())
    arguments = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "latent"}
    expected = pipe(PROMPTS[0], control=QUICK, generator=seeded(0), **arguments).images
    if checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    images = pipe(PROMPTS[0], control=QUICK, memory=memory, generator=seeded(0), **arguments).images
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)
    assert pipe.unet.is_gradient_checkpointing is checkpointing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion())
    pipe.to(dtype=dtype)
    arguments = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "latent"}
    plain = pipe(PROMPTS[0], generator=seeded(0), **arguments).images
    output = pipe(PROMPTS[0], control=QUICK, generator=seeded(0), **arguments)
    assert output.images.dtype == dtype and torch.isfinite(output.images).all()
    assert not torch.equal(output.images, plain)
    losses = output.control.images[0].steps[0].losses["attend-and-excite"]
    assert len({*losses}) == 3, "losses are finer than the model's dtype"


def test_the_controlled_form_of_a_pipeline_keeps_its_dtype():
    stock = tiny.stable_diffusion().to(dtype=torch.bfloat16)
    assert AttentionControlPipeline.from_pipe(stock).unet.dtype == stock.unet.dtype == torch.bfloat16
    assert AttentionControlPipeline.from_pipe(stock, dtype=torch.float16).unet.dtype == torch.float16


def test_inference_mode_around_the_call(generate):
    with torch.inference_mode():
        inside = generate(control=QUICK, num_inference_steps=2)
    assert torch.equal(inside.images, generate(control=QUICK, num_inference_steps=2).images)


def test_output_types(generate):
    call = {"control": QUICK, "num_inference_steps": 1}
    pil = generate(**call, output_type="pil").images[0]
    array = generate(**call, output_type="np").images
    assert isinstance(pil, Image.Image) and pil.size == (32, 32)
    assert array.shape == (1, 32, 32, 3)
    np.testing.assert_allclose(np.asarray(pil) / 255, array[0], atol=1 / 255)
    images, nsfw = generate(**call, output_type="np", return_dict=False)
    np.testing.assert_array_equal(images, array)
    assert nsfw is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"negative_prompt": "a bird"},
        {"guidance_scale": 1.0},
        {"guidance_scale": 0.0},
        {"height": 32, "width": 48},
        {"height": 48, "width": 32},
        {"clip_skip": 1},
        {"eta": 0.5},
        {"guidance_rescale": 0.7},
    ],
    ids=str,
)
def test_arguments_of_the_stock_call(generate, arguments):
    short = {"num_inference_steps": 2, **arguments}
    plain, output = generate(**short), generate(control=QUICK, **short)
    assert output.images.shape == plain.images.shape
    assert not torch.equal(output.images, plain.images)
    assert output.control.images[0].steps[0].refinements == 2


def test_non_square_maps_keep_their_orientation(generate):
    output = generate(control=None, record_maps=True, height=32, width=64)
    assert output.control.images[0].maps.shape[-2:] == (16, 32)


def test_callback_sees_the_guided_latents(generate):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(tensors["latents"])
        return tensors

    final = generate(control=QUICK, callback_on_step_end=callback).images
    assert len(seen) == 4
    assert torch.equal(seen[-1], final)


def test_prompt_embeds_need_token_indices(pipe, generate):
    embeds, negative = pipe.encode_prompt(PROMPTS[0], "cpu", 1, True)
    short = {"control": QUICK, "num_inference_steps": 2}
    arguments = {"prompt_embeds": embeds, "negative_prompt_embeds": negative, **short}
    output = generate(None, subjects=[2, 5], **arguments)
    torch.testing.assert_close(output.images, generate(subjects=[2, 5], **short).images)
    for subjects in (None, ["cat"]):
        with pytest.raises(ValueError, match="token ind"):
            generate(None, subjects=subjects, **arguments)


def test_every_position_of_long_embeddings_may_be_a_subject(pipe, generate):
    """Embeddings of more than 77 positions, as compel makes them of long prompts."""
    (first, negative), (second, _) = (pipe.encode_prompt(text, "cpu", 1, True) for text in ("a cat", "a frog"))
    long = {"prompt_embeds": torch.cat([first, second], 1), "negative_prompt_embeds": torch.cat([negative] * 2, 1)}
    out = generate(None, control=QUICK, subjects=[2, 77 + 2], **long)
    assert [entity.token_indices for entity in out.control.images[0].structure.entities] == [(2,), (79,)]
    with pytest.raises(ValueError, match="token index 153 is outside"):
        generate(None, control=QUICK, subjects=[153], **long)


def test_subjects_given_by_name_phrase_index_or_group(generate):
    def used(subjects, prompt="a red car and a small dog"):
        record = generate(prompt, control=QUICK, subjects=subjects, num_inference_steps=1).control
        return [(e.text, e.noun.token_indices) for e in record.images[0].structure.entities]

    assert used(["car", "dog"]) == [("car", (3,)), ("dog", (7,))]
    assert used(["red car"]) == [("red car", (3,))]
    assert [indices for _, indices in used([3, 7])] == [(3,), (7,)]
    assert [indices for _, indices in used([[2, 3], 7])] == [(2, 3), (7,)]
    assert used(["cat", "cat"], "a cat and a cat") == [("cat", (2,)), ("cat", (5,))]
    assert used(["sombrero"], "a sombrero") == [("sombrero", (2, 3))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "  \n"}, "empty"),
        ({"subjects": ["lion"]}, "lion.*cat.*frog"),
        ({"subjects": [0]}, "0"),
        ({"subjects": [-1]}, "-1"),
        ({"subjects": [6]}, "6"),
        ({"subjects": [80]}, "80"),
        ({"subjects": []}, "empty"),
        ({"prompt": "a cat " + "and a dog " * 40 + "and a lion", "subjects": ["lion"]}, "lion"),
        ({"control": "atend-and-excite"}, "attend-and-excite"),
        ({"control": "attention-refocusing"}, "layout"),
        ({"height": 30}, "multiple of 8"),
        ({"width": 0}, "multiple of 8"),
        ({"control": AttendAndExcite(resolution=24)}, "24x24.*8x8, 16x16"),
        ({"height": 8, "width": 8, "control": AttendAndExcite(resolution=16)}, "16x16"),
        ({"latents": torch.full((1, 4, 16, 16), torch.nan)}, "not finite"),
        ({"prompt": PROMPTS, "subjects": ["cat"]}, "one entry per prompt"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_bad_input(generate, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(**{"control": QUICK, **arguments})


def test_words_beyond_the_encoders_limit_are_left_out_with_a_warning(generate):
    prompt = "a cat " + "and a dog " * 40
    with pytest.warns(UserWarning, match="dog"):
        output = generate(prompt, control=AttendAndExcite(thresholds={}), num_inference_steps=2)
    assert all(0 < i < 76 for indices in output.control.images[0].subjects.values() for i in indices)


def test_latents_that_turn_non_finite_are_reported(generate):
    def spoil(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] * torch.nan} if step == 0 else tensors

    with pytest.warns(RuntimeWarning, match="not finite at step 1 of 4"):
        generate(control=QUICK, callback_on_step_end=spoil)


def test_saved_pipelines_load_here_and_in_plain_diffusers(pipe, generate, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = AttentionControlPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded, StableDiffusionPipeline)
    arguments = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "latent", "control": QUICK}
    first = loaded(PROMPTS[0], generator=seeded(0), **arguments).images
    torch.testing.assert_close(first, generate(control=QUICK, num_inference_steps=2).images, rtol=1e-3, atol=1e-3)
    plain = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert type(plain) is StableDiffusionPipeline


def test_tuned_settings_apply_to_names_only(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    (tmp_path / "control.json").write_text('{"attend-and-excite": {"step_size": 0, "thresholds": {}}}')
    loaded = AttentionControlPipeline.from_pretrained(tmp_path)
    arguments = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "latent"}
    plain, named, own = (
        loaded(PROMPTS[0], generator=seeded(0), control=control, **arguments).images
        for control in (None, "attend-and-excite", QUICK)
    )
    assert torch.equal(named, plain)
    assert not torch.equal(own, plain)


def test_a_subclass_of_a_controlled_pipeline_leaves_the_others_alone(stock, pipe):
    class Own(type(pipe)):
        pass

    assert type(AttentionControlPipeline.from_pipe(stock)) is type(pipe)
    assert type(Own.from_pipe(stock)) is Own


def test_missing_incomplete_and_foreign_checkpoints(pipe, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        AttentionControlPipeline.from_pretrained(tmp_path / "nowhere")
    pipe.save_pretrained(tmp_path / "incomplete")
    (tmp_path / "incomplete" / "unet" / "config.json").unlink()
    with pytest.raises(ValueError, match="not a complete StableDiffusionPipeline"):
        AttentionControlPipeline.from_pretrained(tmp_path / "incomplete")
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    foreign = DDPMPipeline(unet, DDPMScheduler())
    foreign.save_pretrained(tmp_path / "foreign")
    with pytest.raises(ValueError, match=r"DDPMPipeline.*StableDiffusionPipeline"):
        AttentionControlPipeline.from_pretrained(tmp_path / "foreign")
    with pytest.raises(ValueError, match="DDPMPipeline"):
        AttentionControlPipeline.from_pipe(foreign)
