"""Modular pipelines of diffusers, whose guiders call the denoiser once per condition, under control."""

import functools
import logging
from typing import ClassVar

import pytest
import torch
from diffusers import ClassifierFreeGuidance
from diffusers.modular_pipelines import LoopSequentialPipelineBlocks
from diffusers.modular_pipelines.flux2.encoders import Flux2TextEncoderStep

from attncontrol import AttentionControlPipeline, AttentionControlStep, attach, method_classes
from attncontrol.families import family_of
from tests import tiny, tiny_transformers
from tests.stock.builders import picture
from tests.stock.modular import GUIDERS, MODULAR_PIPELINES, NegativeFirst
from tests.test_stock_transformers import CONTROL
from tests.test_transformers import LAYOUT, PROMPT, SLOW, method
from tests.tiny_modular import CALLS, MODULAR, modular

MOVES_NOTHING = ("best-start", "redraw")  # guidance/test_draft.py, test_redrawing.py
METHODS = [name for name in method_classes() if name not in MOVES_NOTHING]
MEASURED = ("SD 3", "Z-Image")  # calls apart and lists of latents; every test with every other family is a slow one
NEGATIVE = "a photo of a big dog and two frogs"


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Blocks log their failures, with the whole traceback, before they raise them."""
    caplog.set_level(logging.CRITICAL, logger="diffusers")


@functools.cache
def tiny_modular(family):
    return MODULAR[family]()


@pytest.fixture(params=[pytest.param(name, marks=() if name in MEASURED else SLOW) for name in MODULAR])
def family(request):
    return request.param


def run(pipe, family, prompt=PROMPT, seed=0, steps=2, **arguments):
    count = len(prompt) if isinstance(prompt, list) else 1
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    call = {"num_inference_steps": steps, "height": 32, "width": 32, "generator": generators, **CALLS.get(family, {})}
    if family == "Qwen-Image":
        call["negative_prompt"] = [" "] * count  # its blocks want one a prompt
    return pipe(prompt=prompt, **{**call, **arguments}, output="latents")


def denoiser_of(pipe):
    return family_of(pipe).denoiser


def left_behind(pipe):
    """All that guidance could leave on a modular pipeline."""
    denoiser, guider = denoiser_of(pipe), getattr(pipe, "guider", None)
    return (
        id(pipe._blocks),
        {name: id(module.processor) for name, module in denoiser.named_modules() if hasattr(module, "processor")},
        [name for name, module in denoiser.named_modules() if "forward" in vars(module)],
        dict(denoiser._forward_pre_hooks),
        [parameter.requires_grad for parameter in denoiser.parameters()],
        sorted(vars(pipe.scheduler).keys() & {"step", "set_timesteps"}),
        guider and sorted(vars(guider).keys() & {"prepare_inputs", "prepare_inputs_from_block_state"}),
        sorted(vars(pipe).keys() & {"encode_prompt"}),
    )


def in_turn():
    """Every method with every family; in the fast selection one method with each."""
    return [
        pytest.param(family, name, marks=() if place == number % len(METHODS) else SLOW)
        for number, family in enumerate(MODULAR)
        for place, name in enumerate(METHODS)
        if (family, name) != ("Z-Image", "best-start")  # which makes no drafts with it, in the stock pipeline either
    ]


@pytest.mark.parametrize(("family", "name"), in_turn())
def test_every_method_moves_the_latents_and_leaves_the_pipeline_alone(family, name):
    pipe, layout = tiny_modular(family), LAYOUT if method_classes()[name].needs_layout else None
    plain, before = run(pipe, family), left_behind(pipe)
    with attach(pipe, method(name), prompt=PROMPT, layout=layout) as control:
        guided = run(pipe, family)
    assert torch.isfinite(guided).all() and not torch.equal(guided, plain)
    steps = control.record.images[0].steps
    assert len(steps) == 2 and any(step.moved for step in steps)
    assert left_behind(pipe) == before
    assert torch.equal(run(pipe, family), plain)


def test_a_step_of_no_length_is_the_stock_pipeline_bit_for_bit(family):
    pipe = tiny_modular(family)
    plain = run(pipe, family)
    with attach(pipe, method("attend-and-excite", relative_step=0.0), prompt=PROMPT):
        assert torch.equal(run(pipe, family), plain)


def test_images_of_a_batch_are_those_drawn_alone(family):
    pipe, prompts, control = tiny_modular(family), [PROMPT, "a bear"], method("attend-and-excite")
    with attach(pipe, control, prompt=prompts):
        together = run(pipe, family, prompts)
    assert prompts == [PROMPT, "a bear"]
    for i, prompt in enumerate(prompts):
        with attach(pipe, control, prompt=prompt):
            alone = run(pipe, family, prompt, seed=i)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-3, atol=1e-3 * float(alone.abs().max()))


def flux2():
    """With the system message of the modular text encoder, where the stock one's has a line break."""
    pipe = tiny_transformers.flux2()
    pipe.system_message = Flux2TextEncoderStep.DEFAULT_SYSTEM_MESSAGE
    return pipe


STOCK = {
    "SD XL": (tiny.stable_diffusion_xl, {"guidance_scale": 7.5}),
    "SD 3": (tiny_transformers.sd3, {"guidance_scale": 7.0, "negative_prompt": NEGATIVE}),
    "FLUX.1": (tiny_transformers.flux, {"guidance_scale": 3.5}),
    "FLUX.2": (flux2, {"guidance_scale": 4.0, **CALLS["FLUX.2"]}),
    "FLUX.2 Klein": (tiny_transformers.klein, {"guidance_scale": 1.0, **CALLS["FLUX.2"]}),
    "FLUX.2 Klein, base": (tiny_transformers.klein, {"guidance_scale": 4.0, **CALLS["FLUX.2"]}),
    "Qwen-Image": (tiny_transformers.qwen_image, {"true_cfg_scale": 4.0, "negative_prompt": " "}),
    "Z-Image": (tiny_transformers.z_image, {"guidance_scale": 0.0}),
}


def guided(pipe, draw, monkeypatch):
    """What the scheduler's last step gave under control, packed as the loop has it, and the record."""
    cls, samples = type(pipe.scheduler), []
    step = cls.step

    @functools.wraps(step)
    def keeping(self, *args, **kwargs):
        samples.append(step(self, *args, **kwargs))
        return samples[-1]

    with monkeypatch.context() as patched:
        patched.setattr(cls, "step", keeping)
        with attach(pipe, method("attend-and-excite"), prompt=PROMPT) as control:
            draw()
    return samples[-1][0], control.record.images[0]


@pytest.mark.parametrize("family", MODULAR)
def test_it_draws_what_the_stock_pipeline_draws_under_control(family, monkeypatch):
    build, arguments = STOCK[family]
    pipe, stock = tiny_modular(family), build()
    call = {"num_inference_steps": 3, "height": 32, "width": 32, "generator": torch.Generator().manual_seed(0)}
    stock_call = {"prompt": PROMPT, "output_type": "latent", **call, **arguments}
    latents, record = guided(pipe, lambda: run(pipe, family, steps=3), monkeypatch)
    wanted, expected = guided(stock, lambda: stock(**stock_call), monkeypatch)
    torch.testing.assert_close(latents, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert record.subjects == expected.subjects
    for step, stock_step in zip(record.steps, expected.steps, strict=True):
        losses, stock_losses = step.losses["attend-and-excite"], stock_step.losses["attend-and-excite"]
        assert losses == pytest.approx(stock_losses, abs=1e-5)


ENDINGS = {"success": None, "failure": ZeroDivisionError, "Ctrl-C": KeyboardInterrupt}


FEW = ("PerturbedAttentionGuidance", "SkipLayerGuidance", "a guider of your own")


@pytest.fixture(params=[pytest.param(case, id=case.name, marks=() if case.name in FEW else SLOW) for case in GUIDERS])
def guided_pipe(request):
    pipe = request.param.build()
    run(pipe, "SD XL", steps=3)  # hooks of some guiders leave their registry behind
    return pipe


def calls_of_steps(pipe, draw, monkeypatch):
    """For every step its sample, moved, and the latents and text of the denoiser's calls."""
    family, inputs, steps = family_of(pipe), [], []
    step = type(pipe.scheduler).step

    def keep(module, args, kwargs):
        if not torch.is_grad_enabled():
            call = family.bind(args, kwargs)
            inputs.append((family.latents(call).clone(), call["encoder_hidden_states"]))

    @functools.wraps(step)
    def keeping(self, model_output, timestep, sample, *args, **kwargs):
        steps.append((sample.clone(), [*inputs]))
        inputs.clear()
        return step(self, model_output, timestep, sample, *args, **kwargs)

    monkeypatch.setattr(type(pipe.scheduler), "step", keeping)
    with attach(pipe, method("attend-and-excite"), prompt=PROMPT) as control:  # its hook runs before the one below
        handle = family.denoiser.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            draw()
        finally:
            handle.remove()
    return steps, control.record.images[0]


def test_with_every_guider_all_calls_of_a_step_see_the_same_move(guided_pipe, monkeypatch):
    pipe = guided_pipe
    plain, before = run(pipe, "SD XL", steps=3), left_behind(pipe)
    steps, record = calls_of_steps(pipe, lambda: run(pipe, "SD XL", steps=3), monkeypatch)
    assert len(steps) == 3 and all(step.moved for step in record.steps)
    assert len(steps[1][1]) == pipe.guider.num_conditions
    for sample, calls in steps:
        for latents, _ in calls:
            torch.testing.assert_close(latents, sample, rtol=0, atol=1e-6)
    assert left_behind(pipe) == before
    assert torch.equal(run(pipe, "SD XL", steps=3), plain)


def test_with_every_guider_the_prompt_is_looked_at_not_the_negative_one(guided_pipe):
    losses = []
    for negative in ("a dog", "two big bears and a clock"):
        with attach(guided_pipe, method("attend-and-excite"), prompt=PROMPT) as control:
            run(guided_pipe, "SD XL", steps=1, negative_prompt=negative)
        losses.append(control.record.images[0].steps[0].losses["attend-and-excite"])
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in MODULAR_PIPELINES])
def test_control_acts_with_all_that_pipelines_take(case):
    pipe = case.build()

    def draw():
        torch.manual_seed(0)  # for what a pipeline draws without its generator
        call = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0), **case.call}
        return pipe(prompt=case.prompt, **call, output="latents")

    plain, before = draw(), left_behind(pipe)
    with attach(pipe, 0 * CONTROL, prompt=case.prompt):
        assert torch.equal(draw(), plain), "weight 0 changes nothing"
    with attach(pipe, CONTROL, prompt=case.prompt) as control:
        guided = draw()
    assert left_behind(pipe) == before
    first = control.record.images[0].steps[0]
    losses = first.losses["attend-and-excite"]
    assert first.moved and first.refinements == 1 and losses[1] < losses[0]
    assert torch.isfinite(guided).all() and (guided - plain).norm() > 1e-4 * plain.norm()


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_ends_a_call_everything_is_put_back(family, ending):
    pipe = tiny_modular(family)
    before, stock_step = left_behind(pipe), pipe.scheduler.step

    def failing(*args, **kwargs):
        if ENDINGS[ending]:
            raise ENDINGS[ending]
        return stock_step(*args, **kwargs)

    def controlled():
        with attach(pipe, method("attend-and-excite"), prompt=PROMPT):
            vars(pipe.scheduler)["step"] = failing
            run(pipe, family)

    if ENDINGS[ending]:
        with pytest.raises(ENDINGS[ending]):
            controlled()
    else:
        controlled()
    assert left_behind(pipe) == before


def test_another_prompt_than_the_attached_one_is_refused(family):
    pipe = tiny_modular(family)
    message = "controls the prompt 'a red cat and a blue frog', but .* 'a bear'"
    with pytest.raises(ValueError, match=message), attach(pipe, method("attend-and-excite"), prompt=PROMPT):
        run(pipe, family, "a bear")


def test_a_guider_without_a_call_for_the_prompt_is_refused():
    class Renamed(ClassifierFreeGuidance):
        _input_predictions: ClassVar = ["positive", "negative"]

    pipe = MODULAR["SD 3"](guider=Renamed())
    with (
        pytest.raises(ValueError, match="Renamed asks for positive, negative, so the call for the prompt cannot"),
        attach(pipe, method("attend-and-excite"), prompt=PROMPT),
    ):
        run(pipe, "SD 3")


def test_a_guider_that_changes_the_model_before_the_call_for_the_prompt_is_refused():
    class Changing(NegativeFirst):
        def prepare_models(self, denoiser):
            super().prepare_models(denoiser)

    pipe = MODULAR["SD 3"](guider=Changing())
    with (
        pytest.raises(ValueError, match="asks for pred_cond after pred_uncond"),
        attach(pipe, method("attend-and-excite"), prompt=PROMPT),
    ):
        run(pipe, "SD 3")


def test_a_run_has_as_many_steps_as_its_blocks_take():
    """An image-to-image run begins in the middle of the scheduler's timesteps, and Euler's scheduler counts from 0."""
    pipe = tiny_modular("SD XL")
    seen = []
    control = method("attend-and-excite", stop=0.5)
    with attach(pipe, control, prompt=PROMPT) as controlled:
        run(pipe, "SD XL", steps=8, image=picture(), strength=0.5)
        seen += [step.moved for step in controlled.record.images[0].steps]
    assert seen == [True, True, False, False]


def test_maps_are_looked_at_in_the_call_for_the_prompt():
    pipe = MODULAR["SD 3"](guider=NegativeFirst())
    with attach(pipe, None, prompt=PROMPT, record_maps=True) as looking:
        plain = run(pipe, "SD 3")
        found = looking.record.images[0].word_maps
    pipe.update_components(guider=ClassifierFreeGuidance())
    with attach(pipe, None, prompt=PROMPT, record_maps=True) as looking:
        assert torch.equal(run(pipe, "SD 3"), plain)
        assert torch.equal(looking.record.images[0].word_maps.maps, found.maps)


def wrapped(family, name=None):
    """The blocks of a tiny pipeline, all of them or the one of a name, in a block that controls them."""
    plain = tiny_modular(family)
    blocks = plain.blocks
    if name is None:
        blocks = AttentionControlStep(blocks)
    else:
        blocks.sub_blocks[name] = AttentionControlStep(blocks.sub_blocks[name])
    return modular(blocks, plain.components)


@pytest.mark.parametrize("name", [None, "denoise"])
def test_a_block_controls_the_blocks_in_it(family, name):
    plain, pipe, control = tiny_modular(family), wrapped(family, name), method("attend-and-excite")
    with attach(plain, control, prompt=PROMPT) as controlled:
        expected = run(plain, family)
    before = left_behind(pipe)
    call = {**CALLS.get(family, {}), "num_inference_steps": 2, "height": 32, "width": 32, "prompt": PROMPT}
    if family == "Qwen-Image":
        call["negative_prompt"] = [" "]
    state = pipe(**call, generator=[torch.Generator().manual_seed(0)], control=control)
    assert torch.equal(state.latents, expected)
    assert state.control_record.images[0].steps == controlled.record.images[0].steps
    assert left_behind(pipe) == before
    free = pipe(**call, generator=[torch.Generator().manual_seed(0)])
    assert torch.equal(free.latents, run(plain, family)) and free.control_record is None


def test_a_block_controls_a_loop_whose_timesteps_were_set_before():
    plain, control = tiny_modular("SD 3"), method("attend-and-excite")
    with attach(plain, control, prompt=PROMPT):
        expected = run(plain, "SD 3")
    blocks = plain.blocks.get_workflow("text2image")
    (loop,) = [name for name, block in blocks.sub_blocks.items() if isinstance(block, LoopSequentialPipelineBlocks)]
    blocks.sub_blocks[loop] = AttentionControlStep(blocks.sub_blocks[loop])
    pipe = modular(blocks, plain.components)
    assert torch.equal(run(pipe, "SD 3", control=control, height=128, width=128), expected)  # without the VAE's factor


def test_a_choice_of_the_noise_is_refused_where_sampling_starts_from_a_picture():
    pipe = tiny_modular("SD XL")
    with (
        pytest.raises(ValueError, match=r"best-start .*starts from a picture"),
        attach(pipe, "best-start", prompt=PROMPT),
    ):
        run(pipe, "SD XL", image=picture(), strength=0.5)


def test_a_block_takes_what_attach_takes():
    pipe, control = wrapped("FLUX.1"), method("boxdiff")
    with pytest.raises(ValueError, match="boxdiff"):
        run(pipe, "FLUX.1", control=control)
    run(pipe, "FLUX.1", control=control, layout=LAYOUT)
    with pytest.raises(ValueError, match="'bear'"):
        run(pipe, "FLUX.1", control="syngen", subjects=["bear"])
    names = [param.name for param in pipe.blocks.inputs]
    assert sorted(names) == sorted(set(names)) and {"prompt", "control", "layout", "height"} <= set(names)


@pytest.mark.filterwarnings("ignore:diffusers reads")
def test_prompts_that_are_chats_already_are_refused():
    """Z-Image writes its chat into a list of prompts, which a block behind the text encoder would read."""
    with pytest.raises(ValueError, match="is in the chat template already"):
        run(wrapped("Z-Image", "denoise"), "Z-Image", [PROMPT], control=method("attend-and-excite"))
    run(wrapped("Z-Image"), "Z-Image", [PROMPT], control=method("attend-and-excite"))


def test_a_checkpoint_of_a_modular_pipeline_is_no_stock_one(tmp_path):
    pipe = tiny_modular("FLUX.1")
    pipe.save_pretrained(str(tmp_path), overwrite_modular_index=True)
    message = r"is a modular pipeline, FluxModularPipeline, .*ModularPipeline.from_pretrained .*attncontrol.attach"
    with pytest.raises(ValueError, match=message):
        AttentionControlPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        AttentionControlPipeline.from_pipe(pipe)
