"""Looking at a model's maps: they are those of its attention, whatever is kept apart, and nothing changes."""

import json

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from attncontrol.cli import app
from attncontrol.guidance.looking import Looking
from tests import tiny
from tests.test_transformers import controlled, left_behind, run

PROMPT = "cat and a frog"


def look(pipe, **settings):
    looking = Looking(pipe, PROMPT, **settings)
    with looking:
        images = run(pipe, PROMPT).images
    return looking, images


@pytest.mark.parametrize("family", ["FLUX.1", "SD 3", "PixArt-Sigma", "Z-Image", "Sana"])
def test_what_is_kept_apart_has_the_mean_that_is_kept_else(family):
    pipe = controlled(family)
    before, plain = left_behind(pipe), run(pipe, PROMPT).images
    apart, images = look(pipe, per_layer=True, per_head=True)
    assert torch.equal(images, plain) and left_behind(pipe) == before
    together, _ = look(pipe)
    steps, layers, heads, words, *size = apart.maps.shape
    assert (steps, words, size) == (2, 4, [8, 8]) and heads > 1 and layers == len(apart.layers)
    assert apart.words == ["cat", "and", "a", "frog"] and apart.seen == [0, 1]
    torch.testing.assert_close(apart.maps.mean((1, 2), keepdim=True), together.maps)


def test_the_maps_are_those_that_control_records():
    pipe = controlled("SD 3")
    recorded = run(pipe, PROMPT, control=None, record_maps=True).control.images[0].maps
    looking, _ = look(pipe)
    nouns = [looking.words.index(word) for word in ("cat", "frog")]
    torch.testing.assert_close(looking.maps[:, 0, 0, nouns], recorded)


def test_only_chosen_steps_and_layers_are_looked_at():
    looking, _ = look(controlled("FLUX.1"), layers="single.1, joint.0", steps=[1], per_layer=True)
    assert looking.seen == [1] and looking.layers == ["joint.0", "single.1"]
    assert looking.maps.shape == (1, 2, 1, 4, 8, 8)


def test_maps_beyond_the_limit_are_refused_and_the_pipeline_is_left_as_it_was():
    pipe = controlled("FLUX.1")
    before = left_behind(pipe)
    with pytest.raises(ValueError, match=r"the maps of 2 steps take .*fewer steps or layers"):
        look(pipe, limit=4 * 8 * 8 * 4)
    assert left_behind(pipe) == before


def test_a_prompt_without_words_is_refused():
    with pytest.raises(ValueError, match=r"no word of '\.\.\.'"):
        Looking(controlled("FLUX.1"), "...")


def test_the_command_writes_maps_and_a_picture(tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    command = ["maps", "a cat and a frog", "--model", str(tmp_path / "model"), "--steps", "2", "--seed", "1"]
    command += ["--width", "64", "--height", "64", "--per-layer", "--only-steps", "1", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    with safe_open(tmp_path / "a-cat-and-a-frog_maps_1.safetensors", "pt") as file:
        maps, about = file.get_tensor("maps"), {name: json.loads(value) for name, value in file.metadata().items()}
    assert about["words"] == ["a", "cat", "and", "a", "frog"] and about["steps"] == [1]
    assert maps.shape[:4] == (1, len(about["layers"]), 1, 5) and (maps > 0).all()
    assert (tmp_path / "a-cat-and-a-frog_maps_1.png").stat().st_size > 0
    assert "--only-steps: '2'" in CliRunner().invoke(app, [*command[:-3], "2", *command[-2:]]).output
