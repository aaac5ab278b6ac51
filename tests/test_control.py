"""attach(): guidance through hooks, and the pipeline exactly as before after any exit."""

import functools
import warnings
from contextlib import suppress

import diffusers
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, LMSDiscreteScheduler
from diffusers.models.attention_processor import AttnProcessor

from attncontrol import (
    AttendAndExcite,
    AttentionControlPipeline,
    AttentionRefocusing,
    attach,
    create_method,
    method_classes,
)
from attncontrol.arguments import read_assignment
from attncontrol.guidance.settings import settings_of, settings_of_checkpoint
from attncontrol.losses import MethodSum
from attncontrol.losses.combining import control_to_json, resolve_control, with_settings
from attncontrol.losses.presets import PRESETS
from tests import tiny
from tests.stock import REFUSED

PROMPT = "a cat and a frog"
UNUSED = pytest.mark.filterwarnings("ignore:no call of the")  # what is tested comes before a call
QUICK = AttendAndExcite(thresholds={0: 0.9}, max_refinement_steps=2, step_size=100)
CONFORM = create_method("conform", refinement_steps=1)
CALL = {"num_inference_steps": 3, "height": 32, "width": 32, "output_type": "latent"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class StopHere(Exception):
    pass


@pytest.mark.parametrize("error", [StopHere, KeyboardInterrupt])
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_everything_is_restored_when_a_step_breaks_off(error, calls):
    pipe = tiny.stable_diffusion()
    pipe(PROMPT, **CALL)
    pipe.unet.conv_in.requires_grad_(False)
    before = tiny.state(pipe)
    seen = []

    def break_off(module, args, kwargs):
        seen.append(1)
        if len(seen) > calls:
            raise error

    layer = pipe.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1
    handle = layer.register_forward_pre_hook(break_off, with_kwargs=True)
    with pytest.raises(error), attach(pipe, QUICK, prompt=PROMPT):
        pipe(PROMPT, **CALL)
    handle.remove()
    assert tiny.state(pipe) == before


def test_everything_is_restored_after_success():
    pipe = tiny.stable_diffusion()
    plain = pipe(PROMPT, generator=generator(), **CALL).images
    before = tiny.state(pipe)
    with attach(pipe, QUICK, prompt=PROMPT):
        controlled = pipe(PROMPT, generator=generator(), **CALL).images
    assert tiny.state(pipe) == before
    assert not torch.equal(controlled, plain)
    assert torch.equal(pipe(PROMPT, generator=generator(), **CALL).images, plain)


def test_a_pipeline_can_be_called_again_and_each_run_starts_afresh():
    pipe = tiny.stable_diffusion()
    with attach(pipe, CONFORM, prompt=PROMPT) as control:
        first = pipe(PROMPT, generator=generator(), **CALL).images
        second = pipe(PROMPT, generator=generator(), **CALL).images
    assert torch.equal(first, second)
    assert len(control.record.images[0].steps) == 3


@UNUSED
def test_two_controls_at_once_are_refused(stock):
    with (
        attach(stock, QUICK, prompt=PROMPT),
        pytest.raises(ValueError, match="already under control"),
        attach(stock, QUICK, prompt=PROMPT),
    ):
        pass
    assert "step" not in vars(stock.scheduler)


@UNUSED
def test_replacing_the_scheduler_under_control_is_refused():
    pipe = tiny.stable_diffusion()
    with attach(pipe, QUICK, prompt=PROMPT):
        pipe.scheduler = tiny.scheduler()
        with pytest.raises(RuntimeError, match="set it before"):
            pipe(PROMPT, **CALL)


def test_hooks_of_other_libraries_run_and_stay(stock):
    class Count(ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            Count.calls += 1
            return args, kwargs

    expected = None
    for hooked in (False, True):
        pipe = tiny.stable_diffusion()
        if hooked:
            add_hook_to_module(pipe.unet, Count())
        with attach(pipe, QUICK, prompt=PROMPT):
            latents = pipe(PROMPT, generator=generator(), **CALL).images
        expected = latents if expected is None else expected
    assert torch.equal(latents, expected)
    assert Count.calls > 3, "guided forwards go through the other hook as well"
    assert pipe.unet._hf_hook
    remove_hook_from_module(pipe.unet)


@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.stable_diffusion_xl], ids=["1.x", "XL"])
@pytest.mark.parametrize("cls", [EulerDiscreteScheduler, HeunDiscreteScheduler, LMSDiscreteScheduler])
def test_first_update_is_the_same_with_every_input_scale(make, cls, monkeypatch):
    """At equal model input, input and sample move as with DDIM, the sample in its scheduler's own scale."""
    noise = torch.randn(1, 4, 16, 16, generator=generator())
    reference = first_moves(make, DDIMScheduler, noise, monkeypatch)
    model_input, sample = first_moves(make, cls, noise, monkeypatch)
    assert reference[0].abs().max() > 1e-3
    torch.testing.assert_close(model_input, reference[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(sample, reference[0], rtol=1e-3, atol=1e-4)


def first_moves(make, cls, noise, monkeypatch):
    """How far the first step moves the model's input and, scaled like it, the scheduler's sample, from `noise`."""
    pipe = make(scheduler=tiny.scheduler(cls, timestep_spacing="leading", steps_offset=1))
    pipe.scheduler.set_timesteps(CALL["num_inference_steps"])
    scale = pipe.scheduler.scale_model_input(torch.ones(1), pipe.scheduler.timesteps[0])
    latents = noise / scale / pipe.scheduler.init_noise_sigma
    inputs, samples = [], []
    step = cls.step

    @functools.wraps(step)
    def recording_step(self, model_output, timestep, sample, *args, **kwargs):
        samples.append(sample)
        raise StopHere

    monkeypatch.setattr(cls, "step", recording_step)
    with suppress(StopHere), attach(pipe, AttendAndExcite(thresholds={}, step_size=100), prompt=PROMPT):
        pipe.unet.register_forward_pre_hook(
            lambda module, args, kwargs: inputs.append(args[0] if args else kwargs["sample"]), with_kwargs=True
        )
        pipe(PROMPT, latents=latents, **CALL)
    monkeypatch.setattr(cls, "step", step)
    ordinary = next(sample for sample in inputs if sample.shape[0] == 2)
    torch.testing.assert_close(ordinary[0], ordinary[1])
    return ordinary[1:] - noise, samples[0] * scale - noise


@pytest.mark.parametrize("control", [QUICK, AttentionRefocusing(car=0, step_size=1e4)], ids=["cross", "self"])
def test_processors_without_fused_attention_give_the_same_maps(stock, control):
    results, boxes = [], {"cat": [0.0, 0.1, 0.5, 0.9], "frog": [0.5, 0.1, 1.0, 0.9]}
    for processor in (None, AttnProcessor()):
        pipe = tiny.stable_diffusion()
        if processor is not None:
            pipe.unet.set_attn_processor(processor)
        with attach(pipe, control, prompt=PROMPT, layout=boxes) as attached:
            results.append(pipe(PROMPT, generator=generator(), **CALL).images)
        results.append(attached.record.images[0].steps[0].losses[control.name])
    torch.testing.assert_close(results[2], results[0], rtol=1e-3, atol=1e-3)
    assert results[3] == pytest.approx(results[1], abs=1e-5)


def test_attention_slicing(stock):
    pipe = tiny.stable_diffusion()
    with attach(pipe, QUICK, prompt=PROMPT):
        expected = pipe(PROMPT, generator=generator(), **CALL).images
    pipe.enable_attention_slicing(1)
    with attach(pipe, QUICK, prompt=PROMPT):
        sliced = pipe(PROMPT, generator=generator(), **CALL).images
    torch.testing.assert_close(sliced, expected, rtol=1e-3, atol=1e-3)


def test_resolve_control():
    a, b = create_method("attend-and-excite"), create_method("syngen", step_size=15)
    assert resolve_control(None) == MethodSum()
    assert resolve_control("attend-and-excite").parts == ((1.0, a),)
    assert resolve_control(a + 0.5 * b).parts == ((1.0, a), (0.5, b))
    mapping = {"method": "syngen", "weight": 0.5, "step_size": 15}
    assert resolve_control(["attend-and-excite", mapping]).parts == ((1.0, a), (0.5, b))
    tuned = {"syngen": {"step_size": 15}}
    assert resolve_control("syngen", tuned).parts == ((1.0, b),)
    assert resolve_control(create_method("syngen"), tuned).parts == ((1.0, create_method("syngen")),)


@pytest.mark.parametrize("name", method_classes())
def test_weight_variant_and_window_are_the_same_from_everywhere(name):
    """From Python, the command line, a prompt file and the metadata of an image."""
    settings = {"variant": "reference", "start": 0.1, "stop": 0.4}
    python = 0.5 * method_classes()[name](**settings)
    options = dict(read_assignment(f"{name}.{key}={value}") for key, value in settings.items())
    assert with_settings(resolve_control(f"0.5*{name}"), options) == python
    assert resolve_control({"method": name, "weight": 0.5, **settings}) == python
    assert resolve_control(control_to_json(python)) == python


def test_presets_are_sums_that_a_checkpoint_may_replace():
    parts = [(part.get("weight", 1.0), create_method(part["method"])) for part in PRESETS["auto"]]
    assert len(parts) > 1 and resolve_control("auto") == MethodSum(tuple(parts))
    tuned = {
        "auto": [{"method": "syngen", "weight": 2.0, "step_size": 4.0}, {"method": "conform"}],
        "conform": {"stop": 0.3},
    }
    syngen, conform = create_method("syngen", step_size=4.0), create_method("conform", stop=0.3)
    assert resolve_control("0.5 * auto", tuned).parts == ((1.0, syngen), (0.5, conform))
    one = resolve_control({"method": "auto", "conform.stop": 0.2}, tuned)
    assert one.parts == ((2.0, syngen), (1.0, create_method("conform", stop=0.2)))
    with pytest.raises(ValueError, match="did you mean 'auto'"):
        resolve_control("aut")


@pytest.mark.parametrize(
    ("control", "error", "message"),
    [
        ("attend-and-exite", ValueError, "did you mean 'attend-and-excite'"),
        ({"method": "syngen", "stepsize": 3}, ValueError, "did you mean 'step_size'"),
        ({"weight": 2}, ValueError, "needs 'method'"),
        ("-0.5*syngen", ValueError, "the weight of syngen must be finite and not negative, got -0.5"),
        (3, TypeError, "not int"),
    ],
)
def test_wrong_controls(stock, control, error, message):
    with pytest.raises(error, match=message):
        attach(stock, control, prompt=PROMPT)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_pipelines_that_cannot_be_controlled_say_why_and_what_can(case):
    with pytest.raises(ValueError, match=f"{case.reason}.*{case.remedy}"):
        attach(case.build(), "attend-and-excite", prompt=PROMPT)


@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT] * 2])
def test_a_batch_of_other_copies_is_refused_at_the_first_step(prompt):
    pipe = tiny.stable_diffusion(diffusers.StableDiffusionInstructPix2PixPipeline, unet=tiny.unet(8))
    before = tiny.state(pipe)
    images = torch.rand(1 if prompt == PROMPT else len(prompt), 3, 32, 32)
    with (
        pytest.raises(ValueError, match=r"InstructPix2PixPipeline calls its denoiser .* as StableDiffusionPipeline"),
        attach(pipe, QUICK, prompt=prompt),
    ):
        pipe(prompt, image=images, num_inference_steps=2, output_type="latent")
    assert tiny.state(pipe) == before


@UNUSED
def test_replacing_the_denoiser_under_control_is_refused():
    pipe = tiny.stable_diffusion()
    with attach(pipe, QUICK, prompt=PROMPT):
        pipe.unet = tiny.unet()
        with pytest.raises(RuntimeError, match="UNet was replaced under control: set it before"):
            pipe(PROMPT, **CALL)


def test_a_pipeline_that_shares_the_denoiser_is_left_alone():
    """Another scheduler tells them apart."""
    pipe = tiny.stable_diffusion()
    other = tiny.stable_diffusion(unet=pipe.unet, scheduler=tiny.scheduler())
    plain = other(PROMPT, generator=generator(), **CALL).images
    with attach(pipe, QUICK, prompt=PROMPT) as control:
        assert torch.equal(other(PROMPT, generator=generator(), **CALL).images, plain)
        guided = pipe(PROMPT, generator=generator(), **CALL).images
        assert torch.equal(other(PROMPT, generator=generator(), **CALL).images, plain)
    assert not torch.equal(guided, plain)
    assert len(control.record.images[0].steps) == 3


def test_pipelines_that_share_the_denoiser_are_controlled_each_in_its_way():
    pipe = tiny.stable_diffusion()
    other = tiny.stable_diffusion(unet=pipe.unet, scheduler=tiny.scheduler(EulerDiscreteScheduler))
    pairs, alone, together = [(pipe, QUICK), (other, CONFORM)], [], []
    for one, control in pairs:
        with attach(one, control, prompt=PROMPT):
            alone.append(one(PROMPT, generator=generator(), **CALL).images)
    with attach(pipe, QUICK, prompt=PROMPT), attach(other, CONFORM, prompt=PROMPT):
        for one, _ in pairs:
            together.append(one(PROMPT, generator=generator(), **CALL).images)
    assert all(map(torch.equal, alone, together))


def test_control_that_no_call_used_is_pointed_out():
    pipe, other = tiny.stable_diffusion(), tiny.stable_diffusion()
    with (
        pytest.warns(UserWarning, match="nothing was guided: attach to the pipeline"),
        attach(pipe, QUICK, prompt=PROMPT),
    ):
        other(PROMPT, **CALL)


def test_a_pipeline_that_shares_everything_must_be_attached_itself():
    pipe = tiny.stable_diffusion()
    other = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    with (
        attach(pipe, QUICK, prompt=PROMPT),
        pytest.raises(
            RuntimeError, match="another pipeline with the same scheduler and UNet runs: attach to that one"
        ),
    ):
        other(PROMPT, **CALL)


def test_unknown_memory_mode(stock):
    with pytest.raises(ValueError, match="'auto', 'fast' or 'low'"):
        attach(stock, QUICK, prompt=PROMPT, memory="tiny")


@pytest.mark.filterwarnings("ignore:the gradient of image 0 is not finite at step [12]")
def test_non_finite_gradients_are_skipped_and_named():
    pipe = tiny.stable_diffusion()
    pipe.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k.weight.data[0, 0] = torch.nan
    control = AttendAndExcite(thresholds={})
    with pytest.warns(RuntimeWarning, match="not finite at step 0 of 3"), attach(pipe, control, prompt=PROMPT) as c:
        pipe(PROMPT, **CALL)
    assert not any(step.moved for step in c.record.images[0].steps)


def test_method_names_are_those_of_the_design():
    expected = {"attend-and-excite", "a-star", "syngen", "conform", "attention-refocusing", "ebama"}
    assert expected | {"boxdiff", "layout-guidance", "focus", "best-start", "redraw"} == set(method_classes())


def test_a_prompt_without_subjects_is_sampled_plainly(stock):
    plain = stock(", .", generator=generator(), **CALL).images
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with attach(stock, QUICK, prompt=", ."):
            images = stock(", .", generator=generator(), **CALL).images
    assert torch.equal(images, plain)
    assert any("no subjects found" in str(w.message) for w in caught)


def test_the_settings_of_a_checkpoint_are_known_before_it_is_loaded(tmp_path):
    for name in ("emoji", "emoji-flux"):
        pipe = AttentionControlPipeline.from_pretrained(name)
        assert settings_of_checkpoint(name) == settings_of(pipe)
    assert settings_of_checkpoint("emoji-flux")["attention-refocusing"]["sar"] == 0
    with pytest.raises(ValueError, match="no diffusers checkpoint at"):
        settings_of_checkpoint(tmp_path)
