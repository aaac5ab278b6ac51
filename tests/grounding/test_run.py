"""Grounded runs: equal to the stock GLIGEN pipeline, image by image, and without a trace afterwards."""

import warnings

import diffusers
import pytest
import torch
from PIL import Image

from attncontrol import AttendAndExcite, AttentionControlPipeline, AttentionRefocusing, Grounding, attach
from attncontrol.guidance import cost
from tests import tiny
from tests.grounding import gated
from tests.grounding.gated import LAYOUT, PROMPT, draw

STOCK = {"gligen_phrases": list(LAYOUT), "gligen_boxes": list(LAYOUT.values())}
SCHEDULERS = {
    diffusers.DDIMScheduler: {},
    diffusers.PNDMScheduler: {"skip_prk_steps": True, "steps_offset": 1},
    diffusers.HeunDiscreteScheduler: {"steps_offset": 1},
}


@pytest.fixture(scope="module")
def stock():
    return gated.gligen()


@pytest.fixture(scope="module")
def pipe(stock):
    made = AttentionControlPipeline.from_pipe(stock)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize(
    ("cls", "beta"),
    [
        pytest.param(cls, beta, marks=[] if beta == 0.3 or cls is diffusers.DDIMScheduler else pytest.mark.slow)
        for cls in SCHEDULERS
        for beta in (0.0, 0.3, 1.0)
    ],
)
def test_grounded_latents_are_those_of_the_stock_pipeline(cls, beta):
    stock = gated.gligen(scheduler=tiny.scheduler(cls, **SCHEDULERS[cls]))
    pipe = AttentionControlPipeline.from_pipe(stock)
    wanted = draw(stock, **STOCK, gligen_scheduled_sampling_beta=beta)
    found = draw(pipe, layout=LAYOUT, grounding=Grounding(beta=beta))
    assert torch.equal(found, wanted)
    assert torch.equal(found, draw(pipe)) == (beta == 0)


def test_without_guidance_and_with_several_images_a_prompt(stock, pipe):
    call = {"guidance_scale": 1.0, "num_images_per_prompt": 2, "seed": [3, 4]}
    assert torch.equal(draw(pipe, layout=LAYOUT, grounding=True, **call), draw(stock, **STOCK, **call))


def test_control_of_the_stock_pipeline_is_that_of_the_controlled_form(stock, pipe):
    method = AttendAndExcite(thresholds={}, step_size=100)
    with attach(stock, method, prompt=PROMPT) as control:
        wanted = draw(stock, **STOCK)
    assert control.record.images[0].steps[0].moved
    assert torch.equal(draw(pipe, control=method, layout=LAYOUT, grounding=True), wanted)
    assert not torch.equal(draw(stock, **STOCK), wanted)


def test_grounding_of_the_stock_pipeline_overrules_its_own_boxes(stock, pipe):
    elsewhere = {"gligen_phrases": ["a dog"], "gligen_boxes": [[0.0, 0.0, 0.1, 0.1]]}
    with attach(stock, None, prompt=PROMPT, layout=LAYOUT, grounding="reground"):
        found = draw(stock, **elsewhere, gligen_scheduled_sampling_beta=0.5)
    assert torch.equal(found, draw(pipe, layout=LAYOUT, grounding="reground"))


def test_the_inpainting_pipeline_is_controlled():
    pipe = gated.gligen(unet=gated.unet(9))
    picture = Image.new("RGB", (32, 32), "gray")

    def run():
        torch.manual_seed(0)  # this pipeline draws its noise from the global generator
        return draw(pipe, **STOCK, gligen_inpaint_image=picture, num_inference_steps=2)

    plain, method = run(), AttendAndExcite(thresholds={}, step_size=100)
    with attach(pipe, 0 * method, prompt=PROMPT):
        assert torch.equal(run(), plain)
    with attach(pipe, method, prompt=PROMPT) as control:
        assert not torch.equal(run(), plain)
    assert control.record.images[0].steps[0].moved


def test_other_pipelines_around_the_unet_are_grounded(pipe):
    image_to_image = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    image_to_image.set_progress_bar_config(disable=True)
    call = {"image": torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), "strength": 0.5}
    call = {**call, "num_inference_steps": 8, "output_type": "latent"}

    def run(**known):
        generator = torch.Generator().manual_seed(0)
        if not known:
            return image_to_image(PROMPT, generator=generator, **call).images
        with attach(image_to_image, None, prompt=PROMPT, layout=LAYOUT, **known):
            return image_to_image(PROMPT, generator=generator, **call).images

    plain, open_twice, half = run(), run(grounding=Grounding(beta=1.0)), run(grounding=Grounding(beta=0.5))
    assert torch.equal(run(grounding=Grounding(beta=0.2)), plain), "0.2 of the 4 calls that are made is none"
    assert not torch.equal(half, plain) and not torch.equal(half, open_twice)


@pytest.mark.parametrize("control", [None, pytest.param("attention-refocusing", marks=pytest.mark.slow)])
def test_images_of_a_batch_are_those_drawn_alone(control):
    """Two boxes, three of two entities, and one; in float64, but for the maps that a method reads in float32."""
    pipe = gated.controlled(unet=gated.unet().double(), text_encoder=tiny.text_encoder().double())
    prompts = [PROMPT, "a red bird with two dogs", "a lion"]
    layouts = [
        LAYOUT,
        {"dogs": [[0.0, 0.5, 0.4, 1.0], [0.6, 0.5, 1.0, 1.0]], "red bird": [0.3, 0.0, 0.7, 0.4]},
        {"lion": [0.2, 0.2, 0.9, 0.9]},
    ]
    known = {"control": control, "grounding": "reground", "num_inference_steps": 2}
    together = draw(pipe, prompts, [0, 1, 2], layout=layouts, **known)
    for i, (prompt, layout) in enumerate(zip(prompts, layouts, strict=True)):
        alone = draw(pipe, prompt, i, layout=layout, **known)[0]
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-5 if control else 1e-9)


def test_copies_for_perturbed_attention_are_grounded_as_the_conditional_one(pipe):
    perturbed = diffusers.StableDiffusionPAGPipeline(**pipe.components, requires_safety_checker=False)
    perturbed.set_progress_bar_config(disable=True)
    told = []

    def note(module, args, kwargs):
        told.append(kwargs["cross_attention_kwargs"]["gligen"]["masks"].sum(1).tolist())

    with attach(perturbed, None, prompt=PROMPT, layout=LAYOUT, grounding=True):
        handle = pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
        draw(perturbed, pag_scale=3.0, num_inference_steps=2)
    handle.remove()
    assert told == [[0, 2, 2]] * 2


def test_rewiring_block_by_block(pipe):
    def run(rewired):
        return draw(pipe, layout=LAYOUT, grounding=Grounding(beta=1.0, rewired=rewired), num_inference_steps=2)

    whole, none, up = run(True), run(False), run("up")
    assert torch.equal(run("down, mid, up"), whole)
    assert torch.equal(run("up.0, up.1"), up)
    assert len({str(latents.sum().item()) for latents in (whole, none, up, run("down.1"))}) == 4
    with pytest.raises(ValueError, match=r"no attention layer matches 'up\.7'; there are layers in"):
        run("up.7")


def test_nothing_is_left_after_success_and_failure(pipe):
    fusers = [module for module in pipe.unet.modules() if hasattr(module, "enabled")]
    fusers[0].enabled = False

    def state():
        flags = [fuser.enabled for fuser in fusers]
        return tiny.state(pipe), flags, [len(m._forward_pre_hooks) for m in pipe.unet.modules()]

    def fail(*_):
        raise KeyboardInterrupt

    before = state()
    known = {"layout": LAYOUT, "grounding": "reground", "control": AttentionRefocusing(stop=0.3)}
    first = draw(pipe, **known)
    assert state() == before
    with pytest.raises(KeyboardInterrupt):
        draw(pipe, layout=LAYOUT, grounding="reground", callback_on_step_end=fail)
    assert state() == before
    assert torch.equal(draw(pipe, **known), first)
    fusers[0].enabled = True


def test_a_plain_call_inside_the_block_is_plain(pipe):
    """A pipeline that shares the UNet meets open gates and rewired blocks, and uses neither."""
    other = diffusers.StableDiffusionPipeline(
        **{**pipe.components, "scheduler": tiny.scheduler()}, requires_safety_checker=False
    )
    other.set_progress_bar_config(disable=True)
    plain = draw(other)
    with attach(pipe, None, prompt=PROMPT, layout=LAYOUT, grounding="reground"):
        found = draw(other)
        draw(pipe)
    assert torch.equal(found, plain)


def test_attention_refocusing_has_its_term_while_gates_are_open(pipe):
    def losses(ground, grounding):
        method = AttentionRefocusing(ground=ground, step_size=0, satisfied=0)
        out = pipe(
            PROMPT, control=method, layout=LAYOUT, grounding=grounding, generator=torch.Generator().manual_seed(0),
            **{**gated.SIZE, "num_inference_steps": 5},
        )  # fmt: skip
        return [step.losses.get("attention-refocusing", [0.0])[0] for step in out.control.images[0].steps]

    with_term, without = (losses(ground, Grounding(beta=0.2)) for ground in (3.0, 0.0))
    assert [a > b for a, b in zip(with_term, without, strict=True)] == [True] + [False] * 4
    late, late_without = (losses(ground, Grounding(beta=1.0)) for ground in (3.0, 0.0))
    assert [a > b for a, b in zip(late, late_without, strict=True)] == [True] * 2 + [False] * 3


def test_memory_modes_agree(pipe):
    """Checkpointed blocks run again in the backward pass, past the hooks of the rewiring."""
    method = AttentionRefocusing(step_size=100, stop=0.3)
    known = {"layout": LAYOUT, "control": method, "grounding": "reground"}
    assert torch.equal(draw(pipe, **known, memory="low"), draw(pipe, **known, memory="fast"))


@pytest.mark.slow
def test_half_precision_moves_finitely():
    dtype = torch.bfloat16
    pipe = gated.controlled(unet=gated.unet().to(dtype), text_encoder=tiny.text_encoder().to(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        latents = draw(pipe, layout=LAYOUT, grounding="reground", control="attention-refocusing")
    assert latents.isfinite().all()


@pytest.mark.slow
def test_the_count_of_a_grounded_call_is_that_of_the_real_model(pipe):
    from torch.utils.flop_counter import FlopCounterMode

    from attncontrol.families import family_of, grounded_family

    family, plain = grounded_family(pipe), family_of(pipe)
    pipe.unet.set_default_attn_processor()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        pipe.unet(**family.example_call(2, (16, 16)))
    assert cost.plain_cost(family, (16, 16)).operations == counter.get_total_flops()
    method = AttentionRefocusing()
    grounded, alone = (cost.method_cost(f, method, (16, 16)) for f in (family, plain))
    assert grounded.fast.operations > alone.fast.operations
    assert grounded.fast.peak_bytes > alone.fast.peak_bytes
    assert sum(layer.is_grounding for layer in grounded.layers) == 3
