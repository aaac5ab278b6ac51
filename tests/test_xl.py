"""Stable Diffusion XL: two text encoders, added conditions, layers to choose from, refiner and few-step schedules."""

import dataclasses
import functools

import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from attncontrol import AttendAndExcite, AttentionControlPipeline, AttentionRefocusing, LayoutGuidance, attach
from attncontrol.families import family_of
from tests import tiny
from tests.prompt.clip import clip_tokenizer

PROMPT = "a cat and a frog"
QUICK = AttendAndExcite(thresholds={0: 0.9}, max_refinement_steps=2, step_size=100)
ONCE = AttendAndExcite(thresholds={}, step_size=100)
CALL = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe():
    controlled = AttentionControlPipeline.from_pipe(tiny.stable_diffusion_xl())
    controlled.set_progress_bar_config(disable=True)
    return controlled


def run(pipe, prompt=PROMPT, seeds=(0,), **arguments):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(prompt, generator=generators, **{**CALL, **arguments})


def first_loss(output):
    return output.control.images[0].steps[0].losses["attend-and-excite"][0]


def test_a_checkpoint_gives_the_controlled_form_that_its_index_names(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = AttentionControlPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded, StableDiffusionXLPipeline)
    assert type(StableDiffusionXLPipeline.from_pretrained(tmp_path)) is StableDiffusionXLPipeline
    torch.testing.assert_close(
        run(loaded, control=QUICK).images, run(pipe, control=QUICK).images, rtol=1e-3, atol=1e-3
    )


def test_without_control_it_is_the_stock_pipeline(pipe):
    assert torch.equal(run(pipe).images, run(tiny.stable_diffusion_xl()).images)


def test_a_prompt_batch_equals_single_prompts(pipe):
    prompts = [PROMPT, "a red car and a small dog"]
    arguments = {"control": QUICK, "negative_prompt": "a bird"}
    together = run(pipe, prompts, seeds=(1, 2), **{**arguments, "negative_prompt": ["a bird"] * 2})
    for i, prompt in enumerate(prompts):
        alone = run(pipe, prompt, seeds=(i + 1,), **arguments)
        torch.testing.assert_close(together.images[i], alone.images[0], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    "conditions",
    [
        {"original_size": (256, 256)},
        {"crops_coords_top_left": (16, 0)},
        {"target_size": (64, 64)},
        {"prompt_2": "dog"},
    ],
    ids=lambda conditions: next(iter(conditions)),
)
def test_the_guided_forward_sees_the_added_conditions(pipe, conditions):
    call = {"control": ONCE, "num_inference_steps": 1}
    assert first_loss(run(pipe, **call, **conditions)) != first_loss(run(pipe, **call))


def test_prompt_embeds_with_token_indices(pipe):
    """The end of text is unknown then, so it cannot be left out of the softmax."""
    embeds, negative, pooled, negative_pooled = pipe.encode_prompt(PROMPT)
    control = dataclasses.replace(QUICK, normalize_eot=False)
    output = run(
        pipe, None, prompt_embeds=embeds, negative_prompt_embeds=negative, pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled, control=control, subjects=[2, 5],
    )  # fmt: skip
    expected = run(pipe, control=control).images
    torch.testing.assert_close(output.images, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(run(pipe, control=QUICK).images, expected, rtol=1e-3, atol=1e-3), "padding is left out"


def test_words_that_the_two_tokenizers_place_differently_are_refused():
    other = clip_tokenizer([("a</w>",), ("c", "at</w>"), ("frog</w>",), ("and</w>",)])
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion_xl(tokenizer_2=other))
    with pytest.raises(ValueError, match=r"'frog' at different positions.*tokenizers differ"):
        run(pipe, "a cat and a frog", control=QUICK, subjects=["frog"])


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("guidance_scale", [0.0, 5.0])
@pytest.mark.parametrize("cls", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_schedules_of_few_steps(cls, steps, guidance_scale):
    """As turbo and lightning checkpoints come: trailing timesteps, no classifier-free guidance."""
    scheduler = tiny.scheduler(cls, timestep_spacing="trailing")
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion_xl(scheduler=scheduler))
    pipe.set_progress_bar_config(disable=True)
    arguments = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    output = run(pipe, control=QUICK, **arguments)
    assert [step.moved for step in output.control.images[0].steps] == [i < max(1, steps / 2) for i in range(steps)]
    assert torch.isfinite(output.images).all()
    assert not torch.equal(output.images, run(pipe, **arguments).images)


def test_the_refiner_has_one_tokenizer():
    stock = tiny.refiner()
    arguments = {
        "image": Image.new("RGB", (32, 32), "gray"),
        "strength": 0.5,
        "num_inference_steps": 4,
        "output_type": "latent",
    }
    plain = stock(PROMPT, generator=torch.Generator().manual_seed(0), **arguments).images
    with attach(stock, QUICK, prompt=PROMPT) as control:
        attached = stock(PROMPT, generator=torch.Generator().manual_seed(0), **arguments).images
    assert control.record.images[0].subjects == {"cat": (2,), "frog": (5,)}
    assert [step.moved for step in control.record.images[0].steps] == [True, False]
    assert not torch.equal(attached, plain)
    refiner = AttentionControlPipeline.from_pipe(stock)
    assert isinstance(refiner, StableDiffusionXLImg2ImgPipeline)
    output = refiner(PROMPT, control=QUICK, generator=torch.Generator().manual_seed(0), **arguments)
    assert torch.equal(output.images, attached)


FULL_SIZE = {
    "base": {
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "refiner": {
        "block_out_channels": (384, 768, 1536, 1536), "transformer_layers_per_block": 4,
        "attention_head_dim": (6, 12, 24, 24), "cross_attention_dim": 1280,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
}  # fmt: skip


@functools.cache
def weightless(model):
    """The family of a full-size UNet without weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(use_linear_projection=True, **FULL_SIZE[model])
    return family_of(tiny.stable_diffusion_xl(unet=unet))


def layers_of(model, height=1024, width=1024):
    return weightless(model).layers((height // 8, width // 8))


def blocks(layers):
    """How many layers are in each block."""
    names = [layer.name.split(".attentions")[0] for layer in layers]
    return {name: names.count(name) for name in names}


def test_layers_of_the_base_model_at_1024_px():
    layers = layers_of("base")
    of_32 = [layer for layer in layers if layer.is_cross and layer.size == (32, 32)]
    assert blocks(of_32) == {"down_blocks.2": 20, "up_blocks.0": 30, "mid_block": 10}
    for method in (AttendAndExcite, LayoutGuidance):
        assert blocks(method().select_layers(layers)) == {"down_blocks.2": 20}
    assert blocks(AttentionRefocusing().select_layers(layers)) == {"down_blocks.2": 40}
    assert blocks(AttendAndExcite(layers="down, mid, up").select_layers(layers)) == blocks(of_32)
    assert blocks(LayoutGuidance(layers="mid,up").select_layers(layers)) == {"up_blocks.0": 30, "mid_block": 10}
    one = AttendAndExcite(layers="up.0.1.3").select_layers(layers)
    assert [layer.name for layer in one] == ["up_blocks.0.attentions.1.transformer_blocks.3.attn2"]
    fine = AttendAndExcite(resolution=64).select_layers(layers)
    assert blocks(fine) == {"down_blocks.1": 4}


@pytest.mark.parametrize(
    ("height", "width", "size"), [(832, 1216, (26, 38)), (1344, 768, (42, 24)), (512, 512, (16, 16))]
)
def test_buckets_that_are_not_square(height, width, size):
    chosen = AttendAndExcite().select_layers(layers_of("base", height, width))
    assert {layer.size for layer in chosen} == {size} and len(chosen) == 20


def test_layers_of_the_refiner():
    chosen = AttendAndExcite().select_layers(layers_of("refiner"))
    assert blocks(chosen) == {"down_blocks.2": 8} and chosen[0].size == (32, 32)


def test_the_layers_that_are_chosen_make_the_loss(pipe):
    losses = {
        layers: first_loss(run(pipe, control=dataclasses.replace(ONCE, layers=layers), num_inference_steps=1))
        for layers in (None, "up", "down")
    }
    assert losses[None] == losses["down"] != losses["up"]


def test_methods_of_a_sum_keep_to_their_own_layers(pipe):
    alone = first_loss(run(pipe, control=ONCE, num_inference_steps=1))
    both = ONCE + AttentionRefocusing(layers="up", step_size=0.0)
    layout = {"cat": [0, 0, 0.5, 1], "frog": [0.5, 0, 1, 1]}
    output = run(pipe, control=both, layout=layout, record_maps=True, num_inference_steps=1)
    assert first_loss(output) == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    ("layers", "message"), [("left", "layers cannot be 'left'"), ("up.x", "up.x"), ("", "layers cannot be ''")]
)
def test_layer_patterns_of_a_wrong_form(layers, message):
    with pytest.raises(ValueError, match=message):
        AttendAndExcite(layers=layers)


def test_layer_patterns_that_match_nothing(pipe):
    with pytest.raises(
        ValueError, match=r"no attention layer matches 'down.0'; there are layers in down.1, up.0, mid"
    ):
        run(pipe, control=AttendAndExcite(layers="down.0"))
