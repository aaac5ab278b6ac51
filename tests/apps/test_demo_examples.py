"""Choosing the demo's examples from measurements."""

import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from apps.demo_examples import Measured, choose
from attncontrol.demo import examples
from attncontrol.losses import create_method
from attncontrol.models import BUNDLED


def measured(kind, prompt, method, plain, controlled):
    return Measured(kind, prompt, method, tuple(map(bool, plain)), tuple(map(bool, controlled)))


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


@pytest.mark.parametrize("model", BUNDLED)
def test_the_examples_of_the_page_are_usable_and_small(model):
    for number, example in enumerate(examples.read(model)):
        values = examples.values_of(model, number)
        assert values["prompt"] and values["seed"] >= 0 and create_method(values["method"])
        assert example["shows"] and "shows" not in values
    assert sum(file.stat().st_size for file in examples.file(model, "").glob("*_[pc]*.webp")) < 200_000
