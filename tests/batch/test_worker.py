"""The worker on a tiny random Stable Diffusion of the real classes."""

import json
import warnings

import numpy as np
import pytest
import torch

from attncontrol import AttentionControlPipeline
from attncontrol.batch import Plan, Worker, WorkerSettings
from attncontrol.images.drawing import Request, draw
from attncontrol.losses.combining import resolve_control
from tests import tiny

ROWS = [
    {"prompt": "a red cat and a blue dog"},
    {"prompt": "a lion", "negative_prompt": "a mouse", "seed": 3},
    {"prompt": "a bird and a big bear", "subjects": ["bird", "bear"]},
    {"prompt": "a clock and an apple", "layout": {"clock": [0, 0, 0.5, 1], "apple": [0.5, 0, 1, 1]}},
]
LARGEST_DIFFERENCE = 1  # of 255, between an image made alone and in a batch; CPU, float32, 2 steps


@pytest.fixture
def worker():
    pipe = AttentionControlPipeline.from_pipe(tiny.stable_diffusion())
    return Worker(pipe, "tiny")


def jobs(tmp_path, rows, **defaults):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    plan = Plan([path], {"steps": 2, **defaults})
    plan.check(found.append)
    assert not found
    return list(plan.jobs())


def images(outcomes):
    return [np.asarray(outcome.made.image).astype(int) for outcome in outcomes]


@pytest.mark.parametrize(
    "control",
    [None, "syngen", {"method": "attend-and-excite", "max_refinement_steps": 2}],
    ids=["plain", "syngen", "attend-and-excite"],
)
def test_an_image_does_not_depend_on_its_batch(tmp_path, worker, control):
    wanted = jobs(tmp_path, ROWS, control=control)
    alone = images([worker.make([job])[0] for job in wanted])
    for order in ([0, 1, 2, 3], [2, 0]):
        together = images(worker.make([wanted[i] for i in order]))
        for i, image in zip(order, together, strict=True):
            assert np.abs(image - alone[i]).max() <= LARGEST_DIFFERENCE
    assert np.abs(alone[0] - alone[2]).max() > 20


@pytest.mark.parametrize(
    "control",
    [
        None,
        {"method": "attend-and-excite", "max_refinement_steps": 2},
        {"method": "conform", "refinement_steps": 2},
    ],
    ids=["plain", "attend-and-excite", "conform"],
)
def test_but_for_rounding_no_image_depends_on_its_batch(tmp_path, worker, control):
    worker.pipe.to(torch.float64)
    wanted = jobs(tmp_path, ROWS[:3], control=control)
    alone = images([worker.make([job])[0] for job in wanted])
    assert np.array_equal(images(worker.make(wanted)), alone)


def test_a_job_gives_the_image_of_the_pipeline(tmp_path, worker):
    job = jobs(tmp_path, ROWS[:1], control="syngen")[0]
    made = worker.make([job])[0].made
    expected = worker.pipe(
        job.prompt, control="syngen", num_inference_steps=2, generator=torch.Generator().manual_seed(0)
    ).images[0]
    assert np.array_equal(np.asarray(made.image), np.asarray(expected))
    assert [subject["text"] for subject in made.recipe.subjects] == ["red cat", "blue dog"]
    assert made.recipe.control[0]["method"] == "syngen" and made.guidance[0]["moved"]
    assert (made.recipe.width, made.recipe.height) == made.image.size


def test_a_job_gives_what_a_single_drawing_gives_with_a_model_that_has_call_arguments_of_its_own(tmp_path):
    """The bundled FLUX is called with a text length and a size of its own."""
    worker = WorkerSettings("emoji-flux").load()
    job = jobs(tmp_path, [{"prompt": "a lion and a clock"}], control="conform")[0]
    methods = resolve_control(job.control)
    request = Request("emoji-flux", job.prompt, job.sampling)
    expected = draw(worker.pipe, request, methods, job.seed, lambda latents: None).image
    made = worker.make([job])[0].made
    assert np.array_equal(np.asarray(made.image), np.asarray(expected)) and made.image.size == (128, 128)


def test_the_recipe_of_an_automatic_layout_has_the_boxes(tmp_path, worker):
    row = {"prompt": "a cat above a red cat", "control": "layout-guidance", "layout": "auto"}
    made = worker.make(jobs(tmp_path, [row]))[0].made
    first, second = made.recipe.layout["objects"]
    assert (first["phrase"], second["phrase"]) == ("cat", "red cat")
    assert first["boxes"][0][3] <= second["boxes"][0][1], "above"
    recipe = json.loads(made.recipe.to_json())
    again = worker.make(jobs(tmp_path, [{**row, "control": recipe["control"], "layout": recipe["layout"]}]))[0].made
    assert np.array_equal(np.asarray(again.image), np.asarray(made.image))
    swapped = {"objects": [{**first, "boxes": second["boxes"]}, {**second, "boxes": first["boxes"]}]}
    other = worker.make(jobs(tmp_path, [{**row, "layout": swapped}]))[0].made
    assert not np.array_equal(np.asarray(other.image), np.asarray(made.image))


def test_one_bad_job_does_not_spoil_its_batch(tmp_path, worker):
    rows = [*ROWS[:3], {"prompt": "a cat", "subjects": [70]}]
    outcomes = worker.make(jobs(tmp_path, rows, control="syngen"))
    assert [outcome.made is not None for outcome in outcomes] == [True, True, True, False]
    assert "70" in outcomes[3].reason and "Error" not in outcomes[3].reason


def test_images_that_are_not_finite_are_failures(tmp_path, worker):
    with torch.no_grad():
        worker.pipe.unet.conv_out.bias[0] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = worker.make(jobs(tmp_path, ROWS[:2]))
    assert all(outcome.made is None and "not finite" in outcome.reason for outcome in outcomes)


def test_out_of_memory_halves_the_batch(tmp_path, worker):
    sizes = []

    class Small(type(worker.pipe)):
        def __call__(self, prompt, *args, **kwargs):
            sizes.append(len(prompt))
            if len(prompt) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().__call__(prompt, *args, **kwargs)

    worker.pipe.__class__ = Small
    batch = jobs(tmp_path, [{"prompt": f"a cat and {n} dog"} for n in ("a", "an", "two", "big", "small", "red")])
    assert all(outcome.made for outcome in worker.make(batch))
    assert sizes == [6, 3, 2, 1, 2, 1]
    sizes.clear()
    worker.make(batch)
    assert sizes == [2, 2, 2]  # what has once not fitted is not tried again


def test_one_image_that_does_not_fit_is_a_failure(tmp_path, worker):
    class Full(type(worker.pipe)):
        def __call__(self, *args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    worker.pipe.__class__ = Full
    outcomes = worker.make(jobs(tmp_path, ROWS[:2]))
    assert [outcome.reason for outcome in outcomes] == ["OutOfMemoryError: CUDA out of memory"] * 2


def test_the_fingerprint_follows_weights_scheduler_and_tuned_settings(worker):
    prints = {worker.fingerprint()}
    assert {worker.fingerprint()} == prints
    with torch.no_grad():
        worker.pipe.unet.conv_out.bias[0] += 1
    prints.add(worker.fingerprint())
    worker.pipe.scheduler = tiny.scheduler(beta_end=0.013)
    prints.add(worker.fingerprint())
    worker.pipe.tuned_settings = {"syngen": {"step_size": 3}}
    prints.add(worker.fingerprint())
    assert len(prints) == 4


def test_the_fingerprint_is_the_same_wherever_the_model_lies(tmp_path, worker):
    prints = []
    for folder in ("a", "b"):
        worker.pipe.save_pretrained(tmp_path / folder)
        prints.append(WorkerSettings(str(tmp_path / folder), device="cpu").load().fingerprint())
    assert prints[0] == prints[1]


def test_overlays(tmp_path, worker):
    worker.maps = True
    outcomes = worker.make(jobs(tmp_path, ROWS[:1]))
    assert outcomes[0].reason is None
    assert outcomes[0].made.overlays.width > 3 * 200  # the image and two subjects
