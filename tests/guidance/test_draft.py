"""Choosing the noise inside a run: what stays as it was, whatever the batch, and where it is refused."""

import diffusers
import pytest
import torch

from attncontrol import AttentionControlPipeline, BestStart, Conform, attach
from attncontrol.guidance.draft import Level, longer_step, predicts
from attncontrol.losses.best_start import reordered
from tests import tiny, tiny_transformers

pytestmark = pytest.mark.filterwarnings("ignore:no subjects found")

PROMPTS = ["a red cat and a blue frog", "a dog and a crown", "big and small"]


@pytest.fixture(scope="module")
def pipe():
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion())
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Looking(BestStart):
    """Looks at every step of a run from the given noise, and moves nothing."""

    def prepare(self, noise, look):
        return None

    def refine(self, context):
        yield 0.0


def draw(pipe, control, prompts=PROMPTS, first=0, **arguments):
    generators = [torch.Generator().manual_seed(first + i) for i in range(len(prompts))]
    settings = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent", "memory": "fast"}
    return pipe(prompts, control=control, generator=generators, **settings | arguments)


def noise(first, count):
    return torch.stack(
        [torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(first + i)) for i in range(count)]
    )


def test_a_run_goes_on_from_the_chosen_noise(pipe):
    best = BestStart(starts=6, ahead=(0.25, 0.5))
    out = draw(pipe, best)
    for row, (image, record) in enumerate(zip(out.images, out.control.images, strict=True)):
        start = record.drafts.index(min(record.drafts)) if record.drafts else 0
        assert len(record.drafts) == (0 if PROMPTS[row] == "big and small" else 6) and not record.spared
        given = reordered(noise(row, 1), start)
        plain = draw(pipe, None, PROMPTS[row : row + 1], latents=given).images[0]
        assert torch.allclose(image, plain, atol=1e-4)
    assert any(record.drafts[0] > min(record.drafts) for record in out.control.images if record.drafts)
    assert torch.equal(out.images, draw(pipe, best).images)


def test_an_image_does_not_depend_on_its_batch(pipe):
    together = draw(pipe, Conform(stop=0.3, refine_at=()) + BestStart(starts=3, ahead=(0.25, 0.5)))
    for row, prompt in enumerate(PROMPTS):
        alone = draw(
            pipe, Conform(stop=0.3, refine_at=()) + BestStart(starts=3, ahead=(0.25, 0.5)), [prompt], first=row
        )
        assert alone.control.images[0].drafts == pytest.approx(together.control.images[row].drafts, abs=1e-5)
        assert torch.allclose(alone.images[0], together.images[row], atol=1e-3)


def test_without_a_choice_nothing_changes(pipe):
    assert torch.equal(draw(pipe, BestStart(starts=1)).images, draw(pipe, None).images)
    assert torch.equal(draw(pipe, BestStart(starts=1, enough=100)).images, draw(pipe, None).images)
    with_choice, without = (draw(pipe, Conform(refine_at=()) + part) for part in (BestStart(starts=1), Conform() * 0))
    assert torch.equal(with_choice.images, without.images)
    losses = [[step.losses for image in out.control.images for step in image.steps] for out in (with_choice, without)]
    assert losses[0] == losses[1] and any(losses[0])


def test_an_image_of_a_good_draft_is_left_alone(pipe):
    conform = Conform(refine_at=())
    drafts = [record.drafts for record in draw(pipe, BestStart(starts=2)).control.images]
    (good, _), (other, _) = drafts[0], drafts[1]
    level = (good + other) / 2
    best = BestStart(starts=1, enough=level, spare=True)
    guided, plain, out = draw(pipe, conform), draw(pipe, None), draw(pipe, conform + best)
    spared = [record.spared for record in out.control.images[:2]]
    assert spared == [good <= level, other <= level] and sum(spared) == 1
    for row, alone in enumerate(spared):
        assert torch.allclose(out.images[row], (plain if alone else guided).images[row], atol=1e-3)
        assert any(step.moved for step in out.control.images[row].steps) is not alone


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_longer_step_is_the_schedulers_own(kind):
    scheduler = diffusers.DDIMScheduler(prediction_type=kind, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(5)
    latents, output = noise(0, 2)
    now, then = Level.of(scheduler, 0), Level.of(scheduler, 0.2)
    expected = scheduler.step(output, scheduler.timesteps[0], latents).prev_sample
    assert torch.allclose(longer_step(latents, output, now, then, predicts(scheduler)), expected, atol=1e-4)


def test_a_longer_step_of_flow_matching_is_the_schedulers_own():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(5)
    latents, output = noise(0, 2)
    now, then = Level.of(scheduler, 0), Level.of(scheduler, 0.2)
    assert now.signal == 0 < then.signal == 1 - then.noise
    expected = scheduler.step(output, scheduler.timesteps[0], latents).prev_sample
    assert torch.allclose(longer_step(latents, output, now, then, predicts(scheduler)), expected, atol=1e-5)


@pytest.mark.parametrize("cls", [diffusers.EulerDiscreteScheduler, diffusers.DPMSolverMultistepScheduler])
def test_other_schedulers_draft_alike(pipe, cls):
    drafts = []
    for scheduler in (tiny.scheduler(timestep_spacing="trailing"), tiny.scheduler(cls, timestep_spacing="trailing")):
        other = AttentionControlPipeline.from_pipe(tiny.stable_diffusion(scheduler=scheduler))
        other.set_progress_bar_config(disable=True)
        drafts.append([record.drafts for record in draw(other, BestStart(starts=2)).control.images[:2]])
    assert torch.tensor(drafts[0]).isfinite().all()
    assert torch.allclose(*map(torch.tensor, drafts), atol=1e-3)


def test_a_run_that_starts_from_a_picture_is_refused():
    cls = diffusers.StableDiffusionImg2ImgPipeline
    pipe = tiny.stable_diffusion(cls)
    with attach(pipe, "best-start", prompt=PROMPTS[1]), pytest.raises(ValueError, match="starts from a picture"):
        pipe(PROMPTS[1], image=torch.zeros(1, 3, 32, 32), num_inference_steps=4, strength=1.0, output_type="latent")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("FLUX.1", {}),
        ("SD 3", {}),
        ("Sana", {}),
        pytest.param("Lumina 2", {"guidance_scale": 1.0}, marks=pytest.mark.slow),
    ],
)
def test_transformers_draft_with_their_own_time(name, given):
    """A draft to where sampling's second step begins is its first step: a run that looks there sees the same maps."""
    pipe = AttentionControlPipeline.from_pipe(tiny_transformers.TRANSFORMERS[name]())
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": PROMPTS[0], "num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent"}
    call |= tiny_transformers.CALLS.get(pipe.stock_name, {}) | given
    drafted, looked = (
        pipe(**call, control=method, generator=torch.Generator().manual_seed(0)).control.images[0]
        for method in (BestStart(starts=2, ahead=(0.25,)), Looking())
    )
    first, second = drafted.drafts
    assert first != second
    assert first == pytest.approx(looked.steps[1].losses["best-start"][0], rel=1e-3)


@pytest.mark.parametrize("name", ["Z-Image", "PixArt-Sigma"])
def test_a_model_whose_time_or_guidance_is_not_known_is_refused(name):
    pipe = AttentionControlPipeline.from_pipe(tiny_transformers.TRANSFORMERS[name]())
    with pytest.raises(ValueError, match="best-start: no draft can be made with a"):
        draw(pipe, BestStart(), PROMPTS[:1], **tiny_transformers.CALLS.get(pipe.stock_name, {}))
