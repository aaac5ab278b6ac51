"""What commands do that nobody told a model, steps or a guidance scale."""

import inspect
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from attncontrol import AttentionControlPipeline
from attncontrol.cli import COMMANDS, app
from attncontrol.images.recipe import read_recipe
from attncontrol.models import BUNDLED, DEFAULT_MODEL, DEFAULT_UNET, default_call, default_steps, resolve

NEED_A_UNET = {"edit", "invert"}
PROMPT = "a cat and a frog"


def defaults(command):
    function = getattr(import_module(f"attncontrol.cli.{command}"), command)
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize("command", [command for command in COMMANDS if "model" in defaults(command)])
def test_every_command_opens_with_the_default_model_but_those_that_need_a_unet(command):
    assert defaults(command)["model"] == (DEFAULT_UNET if command in NEED_A_UNET else DEFAULT_MODEL)


@pytest.mark.parametrize("name", ["steps", "guidance_scale", "width", "height"])
def test_no_command_has_sampling_of_its_own(name):
    given = {command: defaults(command)[name] for command in COMMANDS if name in defaults(command)}
    assert len(given) >= 7 and set(given.values()) == {None}


def test_the_steps_are_the_models():
    assert {name: default_steps(name) for name in BUNDLED} == {"emoji": 30, "emoji-flux": 28}
    assert default_steps(resolve("emoji-flux")) == 28 and default_steps("owner/name") == 30


@pytest.mark.parametrize("model", [pytest.param(name, marks=pytest.mark.slow) for name in BUNDLED])
def test_generate_and_pythons_default_call_draw_the_same(model, tmp_path):
    given = [] if model == DEFAULT_MODEL else ["--model", model]
    result = CliRunner().invoke(app, ["generate", PROMPT, "--seed", "3", "--output", str(tmp_path), *given])
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.iterdir()
    pipe = AttentionControlPipeline.from_pretrained(model)
    generator = torch.Generator().manual_seed(3)
    drawn = pipe(PROMPT, control="conform", generator=generator, **default_call(model)).images[0]
    with Image.open(path) as image:
        assert (np.asarray(image) == np.asarray(drawn)).all()
    recipe = read_recipe(path)
    call = default_call(model)
    assert (recipe.model, recipe.steps) == (model, call["num_inference_steps"])
    assert recipe.guidance_scale == call["guidance_scale"]


@pytest.mark.parametrize("command", [["generate"], ["compare"], ["maps"], ["batch", "rows.txt"]])
def test_a_negative_prompt_that_the_model_would_not_heed_is_refused(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.txt").write_text(PROMPT)
    name, *arguments = command
    result = CliRunner().invoke(app, [name, *(arguments or [PROMPT]), "--negative-prompt", "a dog", "--output", "out"])
    assert result.exit_code == 2, result.output
    assert "--negative-prompt: the model 'emoji-flux' heeds none" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
