"""The programs that the page offers to copy make the page's picture, bit for bit."""

import functools
import subprocess

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from PIL import Image
from typer.testing import CliRunner

from attncontrol.cli import app
from attncontrol.demo import Limits, recipes
from attncontrol.demo.studio import load
from attncontrol.demo.task import make_pairs, needs_boxes, read_task
from attncontrol.losses import method_classes
from attncontrol.models import BUNDLED

pytestmark = pytest.mark.slow  # every program loads the model anew

BOXES = {"red crown": [[0.05, 0.2, 0.45, 0.8]], "blue bow": [[0.55, 0.2, 0.95, 0.8]]}
SHELL = """attncontrol() { printf "%s\\0" "$@"; }\n"""  # what the command line gets after the shell has read it


@functools.cache
def studio(model):
    return load(model, "cpu", "float32")


def the_picture(folder):
    (path,) = folder.rglob("*.png")
    with Image.open(path) as image:
        pixels = np.asarray(image)
    path.unlink()
    return pixels


@pytest.mark.parametrize("method", [*method_classes(), "auto", "0.3*ebama + syngen", "none"])
@pytest.mark.parametrize("model", BUNDLED)
def test_both_programs_give_the_bits_of_the_page(model, method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = studio(model)
    settings = {} if method in ("auto", "none") or "+" in method else {"start": 0.05}
    task = read_task(
        held,
        Limits(),
        prompt="a red crown and a blue bow",
        method=method,
        settings=settings,
        subjects=[["red", "crown"], ["blue", "bow"]],
        layout=BOXES if needs_boxes(held, method) else None,
        seed=3,
        steps=6,
        guidance_scale=2.7182818284,
        negative_prompt="a dog" if held.takes_negative_prompt else "",
    )
    (pair,) = make_pairs(held, task, lambda _: None)
    expected = np.asarray(pair.result.image)
    may_be_plain = method in ("none", "best-start", "redraw")  # what was drawn first may be the best
    assert may_be_plain or (expected != np.asarray(pair.plain.image)).any()
    recipe = pair.result.recipe
    exec(recipes.as_python(recipe), {})
    assert (the_picture(tmp_path) == expected).all()
    read = subprocess.run(["bash", "-c", SHELL + recipes.as_command(recipe)], check=True, capture_output=True)
    result = CliRunner().invoke(app, read.stdout.decode().split("\0")[:-1])
    assert result.exit_code == 0, result.output
    assert (the_picture(tmp_path) == expected).all()
