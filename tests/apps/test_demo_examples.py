"""Choosing the demo's examples from measurements."""

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from apps.demo_examples import Measured, choose
from attncontrol.arguments import PLAIN
from attncontrol.demo import examples
from attncontrol.evaluation.oracle import verdict
from attncontrol.losses import create_method


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


def test_the_examples_of_the_page_are_usable():
    for number, example in enumerate(examples.read()):
        values = examples.values_of(number)
        assert values["prompt"] and values["seed"] >= 0
        assert values["method"] == PLAIN or create_method(values["method"])
        assert example["shows"] and "shows" not in values


def test_the_stored_pictures_show_a_failure_mended_and_the_oracle_agrees():
    for number, example in enumerate(examples.read()):
        assert all(state == "right" for _, state in example["control"])
        assert any(state != "right" for _, state in example["plain"])
        for side in ("plain", "control"):
            with Image.open(examples.picture_file(number, side)) as image:
                judged = verdict(example["prompt"], image.convert("RGB"))
            states = [state for _, state in example[side]]
            assert list(judged.present) == [state != "missing" for state in states]
            assert list(judged.coloured) == [state in ("right", "in the wrong place") for state in states]


def test_the_pictures_are_small():
    files = [examples.picture_file(i, side) for i in range(len(examples.read())) for side in ("plain", "control")]
    assert sum(file.stat().st_size for file in files) < 100_000
