"""Steps taken again: against a schedule that has them twice, whatever the batch, and where they are refused."""

import functools

import diffusers
import pytest
import torch

from attncontrol import AttentionControlPipeline, BestStart, Conform, attach
from attncontrol.guidance.time_travel import FIRST
from attncontrol.losses.best_start import reordered
from tests import tiny
from tests.test_shared_pass import draw, pipeline
from tests.test_transformers import PROMPT, SLOW, method
from tests.tiny_transformers import TRANSFORMERS

STEPS, AGAIN = 5, 2
STILL = 1e-9  # moves of which nothing is left but that they were made


def twice(scheduler, noise):
    """A scheduler that takes one step again, by its own step and the definition of its levels."""
    is_flow = hasattr(scheduler, "sigmas")
    set_timesteps, step, taken = scheduler.set_timesteps, scheduler.step, []

    def signal_and_noise(index):
        if is_flow:
            return 1 - scheduler.sigmas[index], scheduler.sigmas[index]
        kept = scheduler.alphas_cumprod[scheduler.timesteps[index + (index > AGAIN)]]
        return kept.sqrt(), (1 - kept).sqrt()

    @functools.wraps(set_timesteps)
    def with_one_more(*args, **kwargs):
        set_timesteps(*args, **kwargs)
        own = scheduler.timesteps
        scheduler.timesteps = torch.cat([own[: AGAIN + 1], own[AGAIN:]])

    def stepped(output, timestep, sample, **arguments):
        taken.append(timestep)
        after = step(output, timestep, sample, return_dict=False)[0]
        if len(taken) != AGAIN + 1:
            return (after,)
        if is_flow:
            scheduler._step_index -= 1
        (signal, spread), (then_signal, then_spread) = signal_and_noise(AGAIN), signal_and_noise(AGAIN + 1)
        share = signal / then_signal
        return (share * after + (spread**2 - (share * then_spread) ** 2).sqrt() * noise,)

    scheduler.set_timesteps, scheduler.step = with_one_more, stepped
    return scheduler


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize(
    "family", ["1.x", "FLUX.1", *(pytest.param(name, marks=SLOW) for name in ("SD 3", "AuraFlow"))]
)
def test_a_step_is_taken_again_as_a_schedule_that_has_it_twice_does(family, is_shared):
    pipe = AttentionControlPipeline.from_pipe(pipeline(family))
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    shape = draw(pipe, None, num_inference_steps=1)[0].images.shape
    start = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    call = {"latents": start, "num_inference_steps": STEPS}
    plain = draw(pipe, None, **call)[0].images
    control = method("conform", relative_step=STILL, shared_pass=is_shared, time_travel=(AGAIN,))
    output, rows = draw(pipe, control, **call)
    twice(pipe.scheduler, reordered(start, FIRST + AGAIN))
    expected, needed = draw(pipe, None, **call)
    torch.testing.assert_close(output.images, expected.images, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(output.images, plain, atol=0.1)
    assert rows == needed + (0 if is_shared else STEPS + 1)
    losses = [len(step.losses["conform"]) for step in output.control.images[0].steps]
    assert losses == [1, 1, 2, 1, 1]


@pytest.mark.filterwarnings("ignore:no subjects found")
@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("family", ["1.x", pytest.param("SD 3", marks=SLOW)])
def test_an_image_does_not_depend_on_its_batch(family, is_shared):
    prompts = [PROMPT, "big and small", "a dog and a crown"]
    control = method("conform", shared_pass=is_shared, relative_step=0.02, time_travel=(0.4,))
    pipe = pipeline(family)
    together = draw(pipe, control, prompts, num_inference_steps=STEPS)[0].images
    for row, prompt in enumerate(prompts):
        alone = draw(pipe, control, [prompt], seed=row, num_inference_steps=STEPS)[0].images[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-3, atol=2e-3)
    plain = draw(pipe, None, ["big and small"], seed=1, num_inference_steps=STEPS)[0].images[0]
    torch.testing.assert_close(together[1], plain, rtol=1e-4, atol=1e-4)


def test_looking_on_changes_no_bit():
    pipe, control = pipeline("1.x"), method("conform", time_travel=(0.4,))
    found = [draw(pipe, control, num_inference_steps=STEPS, record_maps=watch)[0].images for watch in (False, True)]
    assert torch.equal(*found)


@pytest.mark.parametrize("control", [{"time_travel": (0, STEPS - 1)}, {"time_travel": (AGAIN,), "stop": 0.4}])
def test_the_first_the_last_and_steps_that_do_not_guide_are_taken_once(control):
    pipe = pipeline("1.x")
    found, expected = (
        draw(pipe, method("conform", **settings), num_inference_steps=STEPS)[0].images
        for settings in (control, {**control, "time_travel": ()})
    )
    assert torch.equal(found, expected)


def test_it_starts_from_the_chosen_noise():
    """Of two runs from the same chosen noise, one by a draft and one given, all is alike."""
    pipe, best = pipeline("1.x"), BestStart(starts=4, ahead=(0.3,))
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    control = method("conform", time_travel=(AGAIN,))
    output, _ = draw(pipe, best + control, latents=start, num_inference_steps=STEPS)
    drafts = output.control.images[0].drafts
    chosen = reordered(start, drafts.index(min(drafts)))
    expected, _ = draw(pipe, control, latents=chosen, num_inference_steps=STEPS)
    torch.testing.assert_close(output.images, expected.images, rtol=1e-3, atol=1e-3)


def test_a_run_that_starts_from_a_picture_is_refused():
    pipe = tiny.stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline)
    control = Conform(refine_at=(), time_travel=(1,))
    with attach(pipe, control, prompt=PROMPT), pytest.raises(ValueError, match="starts from a picture"):
        pipe(PROMPT, image=torch.zeros(1, 3, 32, 32), num_inference_steps=4, strength=1.0, output_type="latent")


REFUSED = {
    "PixArt-Sigma": "too little is known of the steps",
    "Z-Image": "too little is known of the steps",
    "FLUX.2 Klein": "calls its denoiser several times in a step",
    "Chroma": "calls its denoiser several times in a step",
    "Lumina 2": "calls its denoiser several times in a step",
    "CogView 4": "calls its denoiser several times in a step",
}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name == "Z-Image" else SLOW) for name in TRANSFORMERS]
)
def test_every_family_takes_a_step_again_or_says_why_not(family):
    pipe, control = pipeline(family), method("conform", time_travel=(1,))
    if family in REFUSED:
        with pytest.raises(ValueError, match=f"time_travel.* {REFUSED[family]}"):
            draw(pipe, control, num_inference_steps=4)
    else:
        output, rows = draw(pipe, control, num_inference_steps=4)
        assert torch.isfinite(output.images).all() and len(output.control.images[0].steps[1].losses["conform"]) == 2
        assert rows > draw(pipe, method("conform"), num_inference_steps=4)[1]


def test_a_scheduler_of_several_calls_a_step_is_refused():
    scheduler = tiny.scheduler(diffusers.HeunDiscreteScheduler)
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion(scheduler=scheduler))
    with pytest.raises(ValueError, match=r"time_travel: a HeunDiscreteScheduler calls the model several times"):
        draw(pipe, method("conform", time_travel=(1,)), num_inference_steps=4)
