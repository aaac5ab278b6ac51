"""`attach` with the stock pipelines, schedulers and helpers of diffusers: every row of the table in tests/stock."""

import functools
from contextlib import suppress

import compel
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from attncontrol import AttendAndExcite, attach
from tests import tiny
from tests.stock.builders import lora, text_to_image
from tests.stock.supported import ADDITIONS, HELPERS, PIPELINES, PROMPT, SCHEDULERS, XL_PIPELINES, Case

CONTROL = AttendAndExcite(thresholds={0: 0.9}, max_refinement_steps=1, step_size=300)
UNREFINED = AttendAndExcite(thresholds={}, step_size=300)
STEPS = 3
SHORT = {"num_inference_steps": 2}  # one guided, one not
CASES = [
    # torch.compile of a whole UNet takes seconds; test_compiled.py does it in the fast selection
    pytest.param(case, id=case.name, marks=pytest.mark.slow if "torch.compile(" in case.name else ())
    for case in [*PIPELINES, *XL_PIPELINES, *ADDITIONS, *SCHEDULERS, *HELPERS]
]


def run(pipe, case, **arguments):
    call = {"num_inference_steps": STEPS, "output_type": "latent", **case.call, **arguments}
    return pipe(case.prompt, generator=torch.Generator().manual_seed(0), **call).images


def controlled(pipe, case, control=CONTROL):
    return attach(pipe, control, prompt=case.prompt, subjects=case.subjects)


@pytest.mark.parametrize("case", CASES)
def test_control_acts_and_leaves_no_trace(case):
    pipe = case.build()
    # longer where a scheduler remembers the first guided step in the second, or where a picture skips one
    short = {} if case in SCHEDULERS or case.call.get("strength", 1.0) < 1 else SHORT
    plain = run(pipe, case, **short)
    before = tiny.state(pipe)
    with controlled(pipe, case, 0 * UNREFINED):
        assert torch.equal(run(pipe, case, **short), plain), "weight 0 changes nothing"
    with controlled(pipe, case) as control:
        guided = run(pipe, case, **short)
    assert tiny.state(pipe) == before
    assert torch.equal(run(pipe, case, **short), plain)
    steps = control.record.images[0].steps
    assert steps[0].moved and steps[0].refinements == 1
    losses = steps[0].losses["attend-and-excite"]
    assert losses[1] < losses[0]
    assert torch.isfinite(guided).all()
    assert (guided - plain).norm() > 1e-2 * plain.norm()


def test_embeddings_of_compel():
    """Weighted embeddings, with the plain words as the prompt of `attach`."""
    pipe = Case("", text_to_image()).build()
    embed = compel.Compel(tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder)
    embeds = {"prompt_embeds": embed("a (cat)1.4 and a frog--"), "negative_prompt_embeds": embed("")}
    call = {"num_inference_steps": STEPS, "output_type": "latent", **embeds}
    plain = pipe(generator=torch.Generator().manual_seed(0), **call).images
    with attach(pipe, CONTROL, prompt=PROMPT) as control:
        guided = pipe(generator=torch.Generator().manual_seed(0), **call).images
    assert control.record.images[0].subjects == {"cat": (2,), "frog": (5,)}
    assert (guided - plain).norm() > 1e-2 * plain.norm()


def test_memory_modes_agree_on_the_scale_of_a_lora():
    """The scale of the call holds where the backward pass of low memory runs blocks again."""
    pipe, case = lora(), Case("", lora)
    guided = {}
    for scale in (0.3, 1.0):
        for memory in ("fast", "low"):
            with attach(pipe, CONTROL, prompt=PROMPT, memory=memory):
                guided[scale, memory] = run(pipe, case, cross_attention_kwargs={"scale": scale})
        assert torch.equal(guided[scale, "low"], guided[scale, "fast"])
    assert not torch.equal(guided[0.3, "fast"], guided[1.0, "fast"])


class Enough(Exception):
    pass


class DDIMAt(DDIMScheduler):
    """DDIM that visits one given timestep."""

    only: float

    def set_timesteps(self, *args, **kwargs):
        super().set_timesteps(*args, **kwargs)
        self.timesteps = torch.as_tensor(self.only).reshape(1)

    def step(self, model_output, timestep, sample, eta=0.0, generator=None, return_dict=True):
        return (sample,)


@pytest.mark.parametrize("case", SCHEDULERS, ids=lambda case: case.name)
def test_the_first_update_is_that_of_ddim(case, monkeypatch):
    """At equal model input and timestep, input and sample move as with DDIM, the sample in its scheduler's scale."""
    pipe = case.build()
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    pipe.scheduler.set_timesteps(case.call.get("num_inference_steps", STEPS))
    scale = pipe.scheduler.scale_model_input(torch.ones(1), pipe.scheduler.timesteps[0])
    latents = noise / scale / pipe.scheduler.init_noise_sigma
    _, model_input, sample = first_moves(pipe, case, monkeypatch, latents=latents)
    DDIMAt.only = pipe.scheduler.timesteps[0]
    pipe.scheduler = tiny.scheduler(DDIMAt)
    check_moves(first_moves(pipe, case, monkeypatch, latents=noise)[1], model_input, sample)


@pytest.mark.parametrize(
    "case",
    # consistency models ask their own scheduler for timesteps
    [case for case in PIPELINES + XL_PIPELINES + ADDITIONS if "Consistency" not in case.name],
    ids=lambda case: case.name,
)
def test_the_first_update_is_the_same_with_ddim_and_euler(case, monkeypatch):
    pipe = case.build()
    found = []
    for cls in (DDIMScheduler, EulerDiscreteScheduler):
        pipe.scheduler = tiny.scheduler(cls, timestep_spacing="leading", steps_offset=1)
        found.append(first_moves(pipe, case, monkeypatch))
    (start, reference, _), (other_start, model_input, sample) = found
    torch.testing.assert_close(other_start, start, rtol=1e-4, atol=1e-4)
    check_moves(reference, model_input, sample)


def check_moves(reference, model_input, sample):
    assert reference.abs().max() > 1e-3
    torch.testing.assert_close(model_input, reference, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(sample, reference, rtol=2e-3, atol=2e-4)


def first_moves(pipe, case, monkeypatch, **arguments):
    """The latents that go into the first model call, and how far control moves them there and in the scheduler.

    All in the scale of the model's input, one image.
    """
    before, after, samples = [], [], []
    step = type(pipe.scheduler).step

    @functools.wraps(step)
    def recording_step(self, model_output, timestep, sample, *args, **kwargs):
        samples.append(sample * self.scale_model_input(torch.ones(1), timestep))
        raise Enough

    def recording_input(found):
        def record(module, args, kwargs):
            if not torch.is_grad_enabled():  # not a guided forward
                found.append((kwargs["sample"] if "sample" in kwargs else args[0])[:1, :4])

        return pipe.unet.register_forward_pre_hook(record, with_kwargs=True)

    monkeypatch.setattr(type(pipe.scheduler), "step", recording_step)
    handles = [recording_input(before)]
    with suppress(Enough), controlled(pipe, case, UNREFINED):
        handles.append(recording_input(after))
        run(pipe, case, **arguments)
    for handle in handles:
        handle.remove()
    monkeypatch.setattr(type(pipe.scheduler), "step", step)
    return before[0], after[0] - before[0], samples[0] - before[0]
