"""`attncontrol insert` on a tiny random FLUX."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from attncontrol import AttentionControlPipeline
from attncontrol.cli import app
from tests import tiny_transformers

ASKED = ("--prompt", "a cat on a mat", "--thing", "a frog")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("flux")
    tiny_transformers.flux().save_pretrained(folder)
    (folder / "call.json").write_text(json.dumps({"height": 32, "width": 32, "max_sequence_length": 16}))
    (folder / "insert.json").write_text(json.dumps({"drawn": {"gamma": 1.3}}))
    return str(folder)


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """run(*arguments) in an empty folder, results in `out`."""
    monkeypatch.chdir(tmp_path)
    common = ["insert", "--model", checkpoint, "--steps", "3", "--output", "out"]
    return lambda *given: CliRunner().invoke(app, [*common, *map(str, given)])


def test_before_and_after_are_those_of_python_and_say_how_they_were_made(run, checkpoint):
    result = run(*ASKED, "--seed", 3, "--seed-target", 4, "--set", "blend=[1]")
    assert result.exit_code == 0, result.output
    assert "inserted: a frog, in " in result.output and "gamma 1.3" in result.output, "the checkpoint's own gamma"
    pipe = AttentionControlPipeline.from_pretrained(checkpoint)
    settings = {"blend": [1]}
    made = pipe.insert("a cat on a mat", "a frog", seed=3, seed_target=4, num_inference_steps=3, settings=settings)
    stem = "3_a-cat-on-a-mat-and-a-frog"
    for image, name in ((made.images[0], f"{stem}.png"), (made.sources[0], f"{stem}_before.png")):
        with Image.open(Path("out", name)) as file:
            assert np.array_equal(np.asarray(file), np.asarray(image))
            facts = json.loads(file.text["attncontrol-edit"])
    assert facts["prompt_target"] == "a cat on a mat and a frog" and facts["settings"] == settings


def test_a_picture_is_inverted(run):
    Image.effect_noise((40, 40), 80).convert("RGBA").save("photo.png")
    result = run("photo.png", *ASKED, "--to", "a frog and a cat on a mat")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "photo_a-frog-and-a-cat-on-a-mat.png",
        "photo_a-frog-and-a-cat-on-a-mat_before.png",
    ]
    again = run("photo.png", *ASKED, "--to", "a frog and a cat on a mat")
    assert again.exit_code == 2 and "is already there: give --overwrite" in again.output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--thing", "a frog"), "--prompt: it is empty"),
        (("--prompt", "a cat"), "--thing: it is empty: write for instance --thing 'a cat'"),
        ((*ASKED, "--to", "a cat on a mat"), "the prompts are equal"),
        ((*ASKED, "--to", "a cat and a dog"), "does not name 'a frog'"),
        ((*ASKED, "--seed", "x"), "--seed: 'x' must be a whole number"),
        ((*ASKED, "--seed-target", "-1"), "--seed-target"),
        ((*ASKED, "--set", "gamma=no"), "--set: gamma must be one of 'auto'"),
        ((*ASKED, "--set", "gama=1"), "--set: Add-it has no setting 'gama', did you mean 'gamma'"),
        ((*ASKED, "--model", "emoji"), "--model: StableDiffusionAttentionControlPipeline cannot insert"),
        (("none.png", *ASKED), "there is no image at 'none.png'"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_the_option(run, given, message):
    result = run(*given)
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output
    assert not Path("out").exists()


def test_random_seeds_are_said(run):
    result = run(*ASKED)
    assert result.exit_code == 0 and result.output.startswith("seed ")
