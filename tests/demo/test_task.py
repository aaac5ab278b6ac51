"""Reading and checking what a visitor asks for; recipes as programs; the loss plot. No browser."""

import json
import shlex
import threading
import time

import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

import gradio as gr

from attncontrol.batch import Plan
from attncontrol.demo import Limits, recipes
from attncontrol.demo.batch_tab import validate
from attncontrol.demo.job_panel import JobPanel
from attncontrol.demo.loss_plot import loss_plot
from attncontrol.demo.studio import Progress, QueueFull, Studio, TimeUp, Waiting
from attncontrol.demo.task import FieldError, make_pairs, needs_boxes, read_task
from attncontrol.demo.widgets import carried_over, edited_subjects, layout_of, settings_form, word_groups
from attncontrol.images.recipe import Recipe
from attncontrol.losses import method_classes
from attncontrol.losses.combining import control_to_json, resolve_control
from attncontrol.prompt import structure_of

LIMITS = Limits(size=64, steps=10, images=2)
SMALL = {"steps": 2, "guidance_scale": 5.0, "width": 32, "height": 32}


@pytest.fixture(scope="module")
def studio(pipe):
    return Studio(pipe, "tiny")


@pytest.mark.parametrize("name", method_classes())
def test_every_setting_has_a_form_field_whose_value_reads_back(studio, name):
    form = settings_form(studio, name)
    methods = read_task(studio, LIMITS, prompt="a cat and a frog", method="none", **SMALL).methods
    assert not methods.parts
    boxes = {"cat": [0, 0, 0.5, 1], "frog": [0.5, 0, 1, 1]}
    task = read_task(
        studio, LIMITS, prompt="a cat and a frog", method=name, settings=form["values"], layout=boxes, **SMALL
    )
    ((weight, method),) = task.methods.parts
    assert weight == 1 and method == method_classes()[name]()
    assert [field["name"] for field in form["fields"]] == list(method.settings())
    assert all(field["help"] for field in form["fields"])


def test_pairs_share_the_seed_and_report_every_step(studio):
    reports = []
    task = read_task(studio, LIMITS, prompt="a cat and a frog", method="conform", images=2, seed=5, **SMALL)
    pairs = make_pairs(studio, task, reports.append)
    assert [pair.plain.recipe.seed for pair in pairs] == [pair.controlled.recipe.seed for pair in pairs] == [5, 6]
    assert [report.done for report in reports] == list(range(1, 9)) and reports[-1].total == 8
    assert not pairs[0].plain.recipe.control and pairs[0].controlled.recipe.control[0]["method"] == "conform"
    assert pairs[0].plain.record.maps.shape == pairs[0].controlled.record.maps.shape


def test_a_job_can_be_stopped_and_what_it_raises_comes_out(studio):
    task = read_task(studio, LIMITS, prompt="a cat", images=2, **SMALL)
    seen = []
    for report in studio.run("visitor", "generate", lambda tell: make_pairs(studio, task, tell)):
        seen.append(report)
        studio.stop("visitor")
    assert all(isinstance(report, Progress) for report in seen) and len(seen) < 4

    def fail(_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(studio.run("visitor", "generate", fail))
    assert list(studio.run("visitor", "generate", lambda _: "done")) == ["done"]
    assert not studio.pipe.unet._forward_pre_hooks


def test_jobs_wait_in_a_queue_that_tells_their_place_and_can_be_left(studio, monkeypatch):
    running, end = threading.Event(), threading.Event()

    def long(_):
        running.set()
        assert end.wait(60)
        return "first"

    first = threading.Thread(target=lambda: list(studio.run("ann", "generate", long)), daemon=True)
    first.start()
    assert running.wait(60)
    second = studio.run("bob", "generate", lambda _: "second")
    third = studio.run("eve", "generate", lambda _: "third")
    assert next(second) == Waiting(1) and next(third) == Waiting(2)
    monkeypatch.setattr("attncontrol.demo.studio.PLACES", 3)
    with pytest.raises(QueueFull, match="3 jobs are in the queue"):
        next(studio.run("tom", "generate", lambda _: None))
    studio.stop("bob")
    assert list(second) == [] and next(third) == Waiting(1)
    end.set()
    assert list(third) == ["third"]
    first.join(60)


@pytest.mark.parametrize("line", ["a cat\n", '{"prompt": 5}\n'])
def test_a_prompt_file_is_read_up_to_the_limit_only(studio, tmp_path, line):
    limits = Limits(jobs=3)
    path = tmp_path / ("many.jsonl" if line.startswith("{") else "many.txt")
    path.write_text(line * 180_000)
    plan = Plan([path], {"steps": 2, "guidance_scale": 5.0}, allow_files=False)
    start = time.thread_time()
    checked = validate(plan, limits)
    assert checked.problems and max(checked.jobs, len(checked.problems)) <= 4
    assert time.thread_time() - start < 2


def test_an_endless_job_ends_at_the_time_limit_and_the_next_one_runs(studio):
    endless = read_task(studio, LIMITS, prompt="a cat", **SMALL)

    def work(tell):
        while True:
            make_pairs(studio, endless, tell)

    with pytest.raises(TimeUp, match=r"longer than 0.5 s"):
        list(studio.run("eve", "generate", work, seconds=0.5))
    assert list(studio.run("ann", "generate", lambda _: "done")) == ["done"]


def test_the_job_of_a_visitor_who_has_gone_is_stopped(studio, monkeypatch):
    endless = read_task(studio, LIMITS, prompt="a cat", **SMALL)
    monkeypatch.setattr(studio, "is_here", lambda session: session != "eve")

    def work(tell):
        while True:
            make_pairs(studio, endless, tell)

    assert all(isinstance(report, Progress) for report in studio.run("eve", "generate", work))
    assert list(studio.run("ann", "generate", lambda _: "done")) == ["done"]


def test_a_press_of_cancel_before_the_studio_knows_the_job_stops_it(studio):
    with gr.Blocks():
        panel = JobPanel(studio, "generate")
        panel.controls("Generate")
    task = read_task(studio, LIMITS, prompt="a cat", images=2, **SMALL)
    reports = studio.run("visitor", "generate", lambda tell: make_pairs(studio, task, tell))
    panel._cancelled.add("visitor")
    updates = [update[panel.status] for update in panel._updates(reports, "visitor")]
    assert len(updates) == 2 and "step 1 of 4" in updates[0] and "Cancelled" in updates[1]
    assert list(studio.run("visitor", "generate", lambda _: "next"))[-1] == "next"


def test_clicked_groups_become_token_indices(studio):
    prompt = "a red crown and a blue bow"
    value = word_groups(studio, prompt, structure_of(prompt, studio.pipe.tokenizer))
    assert [word["text"] for word in value["words"]] == prompt.split()
    assert value["groups"] == [{"noun": 2, "modifiers": [1]}, {"noun": 6, "modifiers": [5]}]
    assert edited_subjects(value, prompt) is None
    value = {**value, "edited": True, "groups": [{"noun": 2, "modifiers": [1]}]}
    assert edited_subjects(value, prompt) == [[[2], [3]]]
    assert edited_subjects(value, "another prompt") is None


def groups_of(studio, prompt):
    return word_groups(studio, prompt, structure_of(prompt, studio.pipe.tokenizer))


def test_chosen_groups_survive_an_edit_as_far_as_their_words_do(studio):
    chosen = {**groups_of(studio, "a red crown and a blue bow"), "edited": True}
    chosen["groups"] = [{"noun": 2, "modifiers": [1]}]

    def after(prompt):
        found = carried_over(chosen, groups_of(studio, prompt))
        texts = [word["text"] for word in found["words"]]
        return [" ".join(texts[i] for i in (*g["modifiers"], g["noun"])) for g in found["groups"]], found["edited"]

    assert after("a small red crown and a blue bow") == (["red crown"], True)
    assert after("a crown and a blue bow") == (["crown"], True)
    assert after("a red crown and a blue bow, a dog") == (["red crown", "dog"], True)
    assert after("a cat and a dog") == (["cat", "dog"], False)
    assert carried_over({"words": []}, chosen) is chosen


def test_a_box_without_a_name_is_an_error():
    boxes = [{"phrase": "cat", "box": [0, 0, 1, 1]}, {"phrase": " ", "box": [0, 0, 1, 1]}]
    assert layout_of({"boxes": boxes[:1]}) == {"cat": [[0, 0, 1, 1]]}
    with pytest.raises(ValueError, match="box 2 has no name"):
        layout_of({"boxes": boxes})


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("prompt", {"prompt": "x" * 2000}),
        ("seed", {"seed": None}),
        ("images", {"images": 3}),
        ("height", {"height": 12}),
        ("guidance_scale", {"guidance_scale": float("nan")}),
        ("method", {"method": "attend"}),
        ("layout", {"layout": "secret.json"}),
        ("layout", {"layout": {"cat": "secret.png"}}),
        ("layout", {"layout": {"prompt": "secret.png"}}),
        ("layout", {"layout": {f"cat {i}": [[0, 0, 1, 1]] * 40 for i in range(2)}}),
        ("prompt", {"prompt": ["a cat"]}),
        ("prompt", {"prompt": "a cat\0"}),
        ("subjects", {"subjects": [{"a": "cat"}]}),
        ("steps", {"steps": float("inf")}),
        ("steps", {"steps": "9" * 5000}),
        ("seed", {"seed": 10**5000}),
        ("guidance_scale", {"guidance_scale": 10**5000}),
        ("method", {"method": {"a": 1}}),
        ("method", {"method": "1e999*conform"}),
        ("method", {"method": "conform + "}),
        ("method", {"method": "+".join(["conform"] * 50)}),
        ("settings", {"method": "conform + syngen", "settings": {"ebama.step_size": 1}}),
        ("settings", {"method": "conform", "settings": "x"}),
        ("settings", {"method": "conform", "settings": {"refinement_steps": 10**9}}),
        ("settings", {"method": "conform", "settings": {"refine_at": ",".join("1" * 101)}}),
        ("settings", {"method": "conform", "settings": {"start": 10**5000}}),
    ],
)
def test_errors_name_their_field(studio, field, values):
    with pytest.raises(FieldError) as caught:
        read_task(studio, LIMITS, **{"prompt": "a cat", **SMALL, **values})
    assert caught.value.field == field and not str(caught.value)[0].islower()


def recipe(control, **changes):
    methods = resolve_control(control)
    subjects = ({"text": "cat", "noun": {"text": "cat", "token_indices": [2]}, "modifiers": []},)
    values = {"steps": 2, "guidance_scale": 5.0, "width": 32, "height": 32, "subjects": subjects, **changes}
    control = tuple(control_to_json(methods))
    common = {"prompt": 'a cat\'s "hat"', "seed": 3, "model": "tiny", "scheduler": "DDIMScheduler"}
    return Recipe(dtype="float32", control=control, **{**common, **values})


def test_a_recipe_as_python_and_as_a_command_line(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    given = {"layout": {"cat": [0, 0, 1, 1]}, "negative_prompt": "a dog", "model": str(tmp_path)}
    made = recipe({"method": "boxdiff", "step_size": 9.0}, **given)
    namespace = {}
    program = recipes.as_python(made)
    call = program[program.index("out = pipe(") : program.index("    generator=")] + ")"
    exec(call, {"pipe": lambda *args, **kwargs: namespace.update(kwargs, prompt=args[0])})
    assert namespace["prompt"] == made.prompt and namespace["negative_prompt"] == "a dog"
    assert namespace["control"] == [{"method": "boxdiff", "step_size": 9.0}]
    assert namespace["subjects"] == [[[2]]] and namespace["layout"] == made.layout
    _, layout, _, *command = recipes.as_command(made).split("\n")
    command = shlex.split("\n".join(command))
    assert json.loads(layout) == made.layout
    assert command[:3] == ["attncontrol", "generate", made.prompt]
    assert command[command.index("--set") + 1] == "step_size=9.0"


def test_recipes_of_other_models_are_not_restored_and_those_of_sums_are(studio):
    made = recipe([{"method": "syngen", "step_size": 3.0}, {"method": "conform", "weight": 0.5}])
    recipes.check_restorable(made, "tiny")
    method, settings = recipes.control_of(made)
    assert method == "syngen + 0.5*conform" and settings["syngen.step_size"] == 3.0
    form = settings_form(studio, method, settings)
    again = read_task(studio, LIMITS, prompt="a cat", method=method, settings=form["values"], **SMALL).methods
    assert control_to_json(again) == list(made.control)
    assert recipes.control_of(recipe(None)) == ("none", {})
    with pytest.raises(ValueError, match="model"):
        recipes.check_restorable(recipe("syngen", model="other"), "tiny")


@pytest.mark.parametrize("control", ["auto", "conform + syngen", "0.5*ebama + conform"])
def test_presets_and_sums_are_methods_too(studio, control):
    values = {name: value for name, value in settings_form(studio, control)["values"].items()}
    task = read_task(studio, LIMITS, prompt="a cat", method=control, settings=values, **SMALL)
    assert task.methods == resolve_control(control)
    assert needs_boxes(studio, "conform + boxdiff") and not needs_boxes(studio, control)


def test_the_loss_plot_marks_refined_steps(generate):
    record = generate(control="attend-and-excite", record_maps=True).control.images[0]
    drawing = loss_plot(record)
    refined = sum(1 for step in record.steps if step.refinements)
    assert drawing.count('class="refined"') == refined
    assert drawing.count("<circle") == sum(1 for step in record.steps if step.losses) - refined
    assert loss_plot(None) == ""
