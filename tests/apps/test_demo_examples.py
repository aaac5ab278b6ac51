"""Choosing the demo's examples from measurements."""

import json

import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from PIL import Image

from apps.demo_examples import Measured, choose, clearness
from attncontrol.demo import examples
from attncontrol.images.drawing import Drawn
from attncontrol.images.recipe import Recipe
from attncontrol.losses import create_method
from attncontrol.models import BUNDLED


def measured(kind, prompt, method, plain, controlled, clear=(0.9, 0.9, 0.9)):
    return Measured(kind, prompt, method, tuple(map(bool, plain)), tuple(map(bool, controlled)), clear)


def test_the_largest_gains_are_kept_and_losses_never():
    chosen = choose(
        [
            measured("objects", "a", "syngen", (1, 0, 0), (1, 0, 1)),
            measured("objects", "a", "conform", (1, 0, 0), (0, 1, 1)),
            measured("objects", "b", "syngen", (1, 1, 0), (0, 0, 1)),
            measured("colours", "c", "syngen", (0, 0, 0), (0, 0, 0)),
            measured("boxes", "d", "boxdiff", (0, 0, 0), (0, 0, 1)),
        ],
        each=2,
    )
    assert [(e["prompt"], e["method"], e["seed"]) for e in chosen] == [("a", "syngen", 2), ("d", "boxdiff", 2)]
    assert "layout" not in chosen[0] and chosen[1]["layout"] == "auto"
    assert chosen[0]["shows"] == "objects: right in 1 of 3 plain, 2 with control"


def test_the_seed_is_the_one_where_only_control_succeeds_and_that_is_seen_best():
    assert measured("objects", "a", "syngen", (0, 0, 1), (1, 1, 1), (0.5, 0.8, 0.9)).seed == 1
    assert measured("objects", "a", "syngen", (0, 0, 1), (1, 1, 1), (0.8, 0.8, 0.9)).seed == 0
    assert measured("objects", "a", "syngen", (0, 1, 1), (0, 1, 1)).seed is None


def test_what_the_oracle_is_unsure_of_is_less_clear():
    def drawn(number, side):
        recipe = Recipe.from_json(json.dumps(examples.read("emoji")[number]["recipes"][side]))
        with Image.open(examples.file("emoji", f"{number}_{side}.webp")) as image:
            return Drawn(image.convert("RGB"), None, recipe)

    plain, control = drawn(0, "plain"), drawn(0, "control")
    assert clearness(plain, control) > 0.5
    faint = Drawn(Image.blend(control.image, Image.new("RGB", control.image.size, "gray"), 0.7), None, control.recipe)
    assert clearness(plain, faint) < clearness(plain, control)
    assert clearness(plain, plain) < 0.5  # the suitcase is not there


@pytest.mark.parametrize("model", BUNDLED)
def test_the_examples_of_the_page_are_usable_and_small(model):
    for number, example in enumerate(examples.read(model)):
        values = examples.values_of(model, number)
        assert values["prompt"] and values["seed"] >= 0 and create_method(values["method"])
        assert example["shows"] and "shows" not in values
    assert sum(file.stat().st_size for file in examples.file(model, "").glob("*_[pc]*.webp")) < 200_000
