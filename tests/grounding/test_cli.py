"""`attncontrol generate` and `batch` with groundings: the pictures of Python, recipes that tell, errors that help."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from attncontrol import AttentionControlPipeline, Grounding
from attncontrol.cli import app
from attncontrol.images.recipe import read_recipe
from tests import tiny
from tests.grounding import gated
from tests.grounding.gated import LAYOUT, PROMPT


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    gated.gligen().save_pretrained(folder / "gligen")
    tiny.stable_diffusion().save_pretrained(folder / "plain")
    return folder


@pytest.fixture
def run(models, tmp_path, monkeypatch):
    """run(command, *arguments, model="gligen") in a folder with a layout and a prompt file; its exit code and text."""
    monkeypatch.chdir(tmp_path)
    Path("boxes.json").write_text(json.dumps(LAYOUT))
    rows = [{"prompt": PROMPT, "layout": LAYOUT, "grounding": g} for g in ("reground", {"beta": 0.5}, "none")]
    Path("rows.jsonl").write_text("".join(json.dumps({"id": f"r{i}", **row}) + "\n" for i, row in enumerate(rows)))

    def invoke(command, *arguments, model="gligen"):
        shared = ["--model", str(models / model), "--output", "out", "--steps", "2", "--control", "none"]
        result = CliRunner().invoke(app, [command, *map(str, arguments), *shared])
        return result.exit_code, " ".join(result.output.split())

    return invoke


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def drawn_in_python(models, **known):
    pipe = AttentionControlPipeline.from_pretrained(models / "gligen")
    pipe.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    return np.asarray(pipe(PROMPT, **call, **known).images[0])


def test_generate(run, models):
    options = ("--layout", "boxes.json", "--grounding", "reground", "--grounding-beta", 0.5, "--seed", 0)
    code, text = run("generate", PROMPT, *options)
    assert code == 0 and "grounded" in text
    (path,) = Path("out").glob("*_plain_reground_0.png")
    wanted = drawn_in_python(models, layout=LAYOUT, grounding=Grounding(beta=0.5, rewired=True))
    assert np.array_equal(pixels(path), wanted)
    recipe = read_recipe(path)
    assert recipe.grounding == {"beta": 0.5, "rewired": True, "phrases": {}}
    with Image.open(path) as image:
        assert "Grounding: ReGround 0.5" in image.info["parameters"]


def test_rows_say_how_they_are_grounded(run, models):
    code, text = run("batch", "rows.jsonl", "--grounding", "gligen", "--batch-size", 1, "--device", "cpu")
    assert code == 0, text
    found = [json.loads(Path(f"out/images/r{i}_0.json").read_text())["recipe"]["grounding"] for i in range(3)]
    assert found == [
        {"beta": 1.0, "rewired": True, "phrases": {}}, {"beta": 0.5, "rewired": False, "phrases": {}}, None,
    ]  # fmt: skip
    for i, grounding in enumerate(("reground", {"beta": 0.5}, None)):
        assert np.array_equal(
            pixels(f"out/images/r{i}_0.png"), drawn_in_python(models, layout=LAYOUT, grounding=grounding)
        )


@pytest.mark.parametrize(
    ("command", "arguments", "model", "message"),
    [
        ("generate", (PROMPT, "--grounding", "gligen"), "gligen", "--grounding: it needs boxes: give --layout"),
        (
            "generate",
            (PROMPT, "--layout", "auto", "--grounding", "gligen"),
            "plain",
            "has no gates that could be told of boxes: give --model a GLIGEN checkpoint",
        ),
        ("generate", (PROMPT, "--grounding-beta", 0.3), "gligen", "--grounding-beta: it belongs to --grounding"),
        ("batch", ("bad.jsonl",), "gligen", "bad.jsonl:1: layout: grounding needs one"),
        ("batch", ("worse.csv",), "gligen", "worse.csv:2: grounding: unknown grounding 'glygen', did you mean"),
        ("batch", ("rows.jsonl", "--device", "cpu"), "plain", "has no gates, so it cannot be told of boxes"),
    ],
)
def test_mistakes(run, command, arguments, model, message):
    Path("bad.jsonl").write_text('{"prompt": "a cat", "grounding": true}\n')
    Path("worse.csv").write_text("prompt,layout,grounding\na cat,auto,glygen\n")
    code, text = run(command, *arguments, model=model)
    assert code != 0 and message in text
