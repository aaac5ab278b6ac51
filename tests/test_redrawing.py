"""Pictures drawn anew by the pipeline: which, from what noise, which is kept, and in which form they come back."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from attncontrol import AttentionControlPipeline, AttentionControlStep, Conform, Redraw, attach
from attncontrol.losses.best_start import reordered
from attncontrol.pipelines.redrawing import of_rows
from tests import tiny, tiny_transformers

pytestmark = pytest.mark.filterwarnings("ignore:no subjects found", "ignore:diffusers reads")

PROMPTS = ["a red cat and a blue frog", "a dog and a crown", "big and small", "a lion and a green bench"]
FEW = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent", "memory": "fast"}
JUDGE = Redraw(tries=3, at=0.75)


@pytest.fixture(scope="module")
def pipe():
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators(count, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def draw(pipe, control, prompts=PROMPTS, first=0, **arguments):
    own = {"generator": generators(len(prompts), first)} if isinstance(prompts, list) else {}
    return pipe(prompts, control=control, **FEW | own | arguments)


def noises(seed, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 4, 16, 16, generator=generator) for _ in range(count)]


def tries(out):
    return [image.tries for image in out.control.images]


def test_the_best_of_all_tries_is_kept_each_from_the_next_noise_of_its_generator(pipe):
    out = draw(pipe, JUDGE, first=10)
    kept = []
    for row, losses in enumerate(tries(out)):
        assert len(losses) == (0 if PROMPTS[row] == "big and small" else 3) == len(set(losses))
        kept.append(losses.index(min(losses)) if losses else 0)
        plain = draw(pipe, None, PROMPTS[row : row + 1], latents=noises(10 + row)[kept[-1]]).images[0]
        assert torch.allclose(out.images[row], plain, atol=1e-4)
    assert len(set(kept)) > 1
    for image in out.control.images:  # the record is that of the picture
        assert not image.tries or image.steps[3].losses["redraw"] == [min(image.tries)]
    assert torch.equal(out.images, draw(pipe, JUDGE, first=10).images)


def test_what_is_accepted_is_drawn_no_further(pipe):
    losses = tries(draw(pipe, JUDGE))
    enough = sorted(row[0] for row in losses if row)[1]
    out = draw(pipe, Redraw(tries=3, at=0.75, enough=enough))
    for own, all_three in zip(tries(out), losses, strict=True):
        good = next((n for n, loss in enumerate(all_three, 1) if loss <= enough), 3)
        assert own == pytest.approx(all_three[:good], abs=1e-5)
    assert {len(own) for own in tries(out)} >= {0, 1, 3}


def test_an_image_does_not_depend_on_its_batch(pipe):
    control = Conform(stop=0.3, refine_at=()) + Redraw(tries=2, at=0.75, enough=0.9)
    together = draw(pipe, control)
    for row, prompt in enumerate(PROMPTS):
        alone = draw(pipe, control, [prompt], first=row)
        assert alone.control.images[0].tries == pytest.approx(together.control.images[row].tries, abs=1e-4)
        assert torch.allclose(alone.images[0], together.images[row], atol=1e-3)


@pytest.mark.parametrize("guided", [Conform(refine_at=(), layers="up.0"), Conform(refine_at=(), layers="mid, up.1")])
def test_the_look_alone_changes_nothing(pipe, guided):
    """Not a bit: the passes that guide read and end where they do without it."""
    watched, plain = draw(pipe, guided + Redraw(enough=100, layers="up")), draw(pipe, guided)
    assert torch.equal(watched.images, plain.images)
    assert all(len(image.tries) == bool(image.subjects) for image in watched.control.images)


def test_given_latents_are_put_into_another_order(pipe):
    given = torch.cat([noises(row)[0] for row in range(2)])
    out = draw(pipe, JUDGE, PROMPTS[:2], latents=given)
    for row, losses in enumerate(tries(out)):
        start = reordered(given[row : row + 1], losses.index(min(losses)))
        assert torch.allclose(
            out.images[row], draw(pipe, None, PROMPTS[row : row + 1], latents=start).images[0], atol=1e-4
        )


def test_images_of_one_prompt_share_what_belongs_to_it(pipe):
    """Subjects, boxes, negative prompt and generator of the one prompt, in a further try as in the first."""
    how = {
        "subjects": ["cat", "frog"],
        "layout": {"cat": [0, 0, 0.5, 1], "frog": [0.5, 0, 1, 1]},
        "negative_prompt": "big",
        "num_images_per_prompt": 3,
        "generator": torch.Generator().manual_seed(5),
    }
    out = draw(pipe, JUDGE, PROMPTS[0], **how)
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randn(3, 4, 16, 16, generator=generator) for _ in range(3)]
    for row, losses in enumerate(tries(out)):
        start = drawn[losses.index(min(losses))][row : row + 1]
        plain = draw(pipe, None, PROMPTS[0], latents=start, negative_prompt="big").images[0]
        assert len(losses) == 3 and torch.allclose(out.images[row], plain, atol=1e-4)
        assert out.control.images[row].subjects == {"cat": (3,), "frog": (7,)}
        assert out.control.images[row].layout is not None


def test_a_prompt_given_encoded_is_drawn_anew_too(pipe):
    encoded, _ = pipe.encode_prompt(PROMPTS[:2], "cpu", 1, False)
    how = {"prompt_embeds": encoded, "negative_prompt_embeds": torch.zeros_like(encoded), "subjects": [[3, 7], [2, 5]]}
    for count in (2, 1):  # one prompt needs no list
        own = {name: value[:count] for name, value in how.items()} | ({"subjects": [3, 7]} if count == 1 else {})
        assert [len(losses) for losses in tries(draw(pipe, JUDGE, None, generator=generators(count), **own))] == [
            3
        ] * count


def test_arguments_by_place_and_a_tuple_for_a_result(pipe):
    rest = {name: value for name, value in FEW.items() if name not in ("height", "width")}
    by_place = pipe(PROMPTS, 32, 32, control=JUDGE, **rest, generator=generators(4), return_dict=False)
    assert isinstance(by_place, tuple) and torch.equal(by_place[0], draw(pipe, JUDGE).images)
    with pytest.raises(TypeError, match="multiple values for argument 'height'"):
        pipe(PROMPTS, 32, 32, control=JUDGE, **FEW)


@pytest.mark.parametrize(("form", "kind"), [("pil", Image.Image), ("np", np.ndarray), ("pt", torch.Tensor)])
def test_every_form_of_pictures_comes_back(pipe, form, kind):
    out = draw(pipe, JUDGE, output_type=form)
    best = [losses.index(min(losses)) if losses else 0 for losses in tries(out)]
    starts = torch.cat([noises(row)[start] for row, start in enumerate(best)])
    plain = draw(pipe, None, output_type=form, latents=starts).images
    for picture, expected in zip(out.images, plain, strict=True):
        assert isinstance(picture, kind) and np.allclose(np.asarray(picture), np.asarray(expected), atol=2)


def test_a_run_that_is_stopped_is_the_last(pipe):
    def stop(pipe, index, timestep, tensors):
        pipe._interrupt = index == 3
        return tensors

    assert [len(losses) for losses in tries(draw(pipe, JUDGE, callback_on_step_end=stop))] == [1, 1, 0, 1]


def test_a_judge_that_guides_judges_by_what_it_reads_last(pipe):
    out = draw(pipe, Redraw(tries=2, at=0.25, relative_step=0.05, stop=1.0), PROMPTS[:1])
    steps = out.control.images[0].steps
    assert [len(step.losses["redraw"]) for step in steps] == [1] * 4 and all(step.moved for step in steps)
    assert steps[3].losses["redraw"] == [min(tries(out)[0])] != steps[0].losses["redraw"]


def test_a_loss_that_is_no_number_is_worse_than_any(pipe, monkeypatch):
    evaluate, looks = Redraw.evaluate, []

    def first_is_nan(self, maps, contexts):
        looks.append(len(contexts))
        found = evaluate(self, maps, contexts)
        return type(found)(found.loss * math.nan) if len(looks) == 1 else found

    monkeypatch.setattr(Redraw, "evaluate", first_is_nan)
    out = draw(pipe, Redraw(tries=2, at=0.75), PROMPTS[:2])
    assert looks == [2, 2]
    for image in out.control.images:
        assert image.tries == [math.inf, image.steps[3].losses["redraw"][0]]


@pytest.mark.parametrize("name", ["FLUX.1", "SD 3", "PixArt-Sigma", "Z-Image"])
def test_transformers_are_drawn_anew(name):
    pipe = AttentionControlPipeline.from_pipe(tiny_transformers.TRANSFORMERS[name]())
    pipe.set_progress_bar_config(disable=True)
    call = FEW | tiny_transformers.CALLS.get(pipe.stock_name, {})
    out, plain = (pipe(PROMPTS[:2], control=c, **call, generator=generators(2)) for c in (JUDGE, None))
    for image, picture, first in zip(out.control.images, out.images, plain.images, strict=True):
        assert len(image.tries) == 3
        assert torch.allclose(picture, first, atol=1e-4) is (image.tries.index(min(image.tries)) == 0)


def test_the_arguments_of_some_images():
    given = {
        "prompt": ["a", "b"],
        "prompt_2": ["c", "d"],
        "negative_prompt": None,
        "pooled_prompt_embeds": torch.arange(2),
        "subjects": None,
        "layout": "auto",
        "num_images_per_prompt": 2,
        "generator": [0, 1, 2, 3],
        "sigmas": [1.0, 0.5],
        "original_size": (32, 32),
    }
    found = of_rows(given, [1, 2], images=4, number=1)
    assert found.pop("pooled_prompt_embeds").tolist() == [0, 1]
    kept = {name: given[name] for name in ("negative_prompt", "subjects", "layout", "sigmas", "original_size")}
    changed = {"prompt": ["a", "b"], "prompt_2": ["c", "d"], "num_images_per_prompt": 1, "generator": [1, 2]}
    assert found == {**kept, **changed}


def test_where_nothing_can_be_drawn_anew_it_is_refused(pipe):
    with pytest.raises(ValueError, match="redraw has pictures drawn anew, which no `with attach"):
        attach(pipe, "conform + redraw", prompt=PROMPTS[0]).__enter__()
    assert "step" not in vars(pipe.scheduler)
    with pytest.raises(ValueError, match="one part that judges pictures, not 2"):
        draw(pipe, "redraw + redraw")
    pictures = [Image.new("RGB", (32, 32))] * 2
    with pytest.raises(ValueError, match="cannot tell which pictures of ip_adapter_image are theirs"):
        draw(pipe, JUDGE, PROMPTS[:2], ip_adapter_image=pictures)
    assert AttentionControlStep is not None
