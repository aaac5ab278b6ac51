"""The demo's switch that tells a model of boxes: there for models with gates, in pairs and in recipes. No browser."""

import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

import gradio as gr

from attncontrol.demo import Limits, recipes
from attncontrol.demo.generate_tab import GenerateTab
from attncontrol.demo.studio import Studio
from attncontrol.demo.task import FieldError, make_pairs, read_task
from tests.grounding import gated
from tests.grounding.gated import LAYOUT, PROMPT

LIMITS = Limits(size=64, steps=10, images=2)
SMALL = {"steps": 2, "guidance_scale": 5.0, "width": 32, "height": 32}


@pytest.fixture(scope="module")
def studio():
    return Studio(gated.controlled(), "emoji")


def task_of(studio, **asked):
    return read_task(studio, LIMITS, **{"prompt": PROMPT, "layout": LAYOUT, **SMALL, **asked})


def test_the_switch_is_there_for_a_model_with_gates(studio, pipe):
    for model, there in ((studio, True), (Studio(pipe, "emoji"), False)):
        with gr.Blocks():
            assert ("grounding" in GenerateTab(model, LIMITS).job.fields) == there


def test_a_grounded_image_is_shown_beside_the_plain_one(studio):
    (pair,) = make_pairs(studio, task_of(studio, grounding="reground"), lambda _: None)
    assert pair.plain.recipe.grounding is None
    assert pair.controlled.recipe.grounding == {"beta": 1.0, "rewired": True, "phrases": {}}
    assert pair.plain.image.tobytes() != pair.controlled.image.tobytes()


def test_grounding_without_boxes_is_said_beside_the_layout(studio):
    with pytest.raises(FieldError, match="Grounding needs boxes") as error:
        task_of(studio, layout=None, grounding="gligen")
    assert error.value.field == "layout"


def test_recipes_name_the_grounding(studio):
    (pair,) = make_pairs(studio, task_of(studio, grounding="gligen"), lambda _: None)
    recipe = pair.controlled.recipe
    assert "    grounding='gligen'," in recipes.as_python(recipe)
    assert "--grounding gligen --grounding-beta 0.3 --layout layout.json" in recipes.as_command(recipe)
    recipes.check_restorable(recipe, "emoji")
