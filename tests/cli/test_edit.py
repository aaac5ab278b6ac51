"""`attncontrol edit` and `invert` on the bundled model, a few steps each."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image
from typer.testing import CliRunner

from attncontrol import AttentionControlPipeline
from attncontrol.cli import app
from attncontrol.editing import Inversion

BEFORE, AFTER = "a red car and a cat", "a blue car and a cat"
QUICK = ["--steps", "3"]


@pytest.fixture(scope="module")
def emoji():
    pipe = AttentionControlPipeline.from_pretrained("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run("edit", ...) -> the result of the command in an empty folder with a photo.png in it."""
    monkeypatch.chdir(tmp_path)
    colours = np.random.default_rng(0).integers(0, 256, (60, 90, 4), dtype=np.uint8)
    Image.fromarray(colours).save("photo.png")
    return lambda *words: CliRunner().invoke(app, [*map(str, words), "--output", "out"])


def pixels(image):
    if isinstance(image, Image.Image):
        return np.asarray(image)
    with Image.open(image) as opened:
        return np.asarray(opened)


def failed(result, *says):
    """Whether it is one line on stderr that names what is wrong, with exit code 2."""
    line = result.stderr.strip()
    return result.exit_code == 2 and line.startswith("Error: ") and "\n" not in line and all(s in line for s in says)


def test_a_drawn_picture_is_edited_as_in_python(run, emoji):
    words = ["--prompt", BEFORE, "--to", AFTER, "--seed", 3, "--local", "car, cat", "--weight", "blue=2", *QUICK]
    result = run("edit", *words)
    assert result.exit_code == 0, result.stderr
    expected = emoji.edit(
        BEFORE, AFTER, seed=3, local=["car", "cat"], weights={"blue": 2}, num_inference_steps=3, guidance_scale=3.0
    )
    stem = "out/3_a-blue-car-and-a-cat"
    assert result.stdout.splitlines() == [f"{stem}_before.png", f"{stem}.png", "changed: red -> blue"]
    assert (pixels(f"{stem}_before.png") == pixels(expected.sources[0])).all()
    assert (pixels(f"{stem}.png") == pixels(expected.images[0])).all()
    with Image.open(f"{stem}.png") as image:
        facts = json.loads(image.info["attncontrol-edit"])
    assert (facts["prompt"], facts["to"], facts["seed"], facts["local"]) == (BEFORE, AFTER, 3, ["car", "cat"])
    assert "already there" in run("edit", *words).stderr


def test_a_picture_is_inverted_and_edited_and_its_inversion_serves_again(run, emoji):
    made = run("invert", "photo.png", "--prompt", BEFORE, "--method", "ddim", *QUICK)
    assert made.exit_code == 0, made.stderr
    first = Path("out/photo_ddim.safetensors").read_bytes()
    again = emoji.reconstruct(Inversion.load("out/photo_ddim.safetensors")).images[0]
    assert (pixels("out/photo_ddim.png") == pixels(again)).all()
    edited = run("edit", "out/photo_ddim.safetensors", "--to", AFTER)
    assert edited.exit_code == 0, edited.stderr
    expected = emoji.edit(Inversion.load("out/photo_ddim.safetensors"), AFTER)
    assert (pixels("out/photo_ddim_a-blue-car-and-a-cat.png") == pixels(expected.images[0])).all()
    straight = run("edit", "photo.png", "--prompt", BEFORE, "--to", AFTER, "--method", "ddim", *QUICK)
    assert straight.exit_code == 0, straight.stderr
    assert (pixels("out/photo_a-blue-car-and-a-cat.png") == pixels(expected.images[0])).all()
    assert Path("out/photo_ddim.safetensors").read_bytes() == first


def test_words_that_do_not_fit_are_named_by_their_options_before_a_picture_is_inverted(run):
    def edit(*words):
        return run("edit", "photo.png", "--prompt", BEFORE, *words, *QUICK)

    assert failed(edit("--to", BEFORE), "--to: it says the same as --prompt")
    assert failed(edit("--to", AFTER, "--local", "dog"), "--local: 'dog' is no word of")
    assert failed(edit("--to", AFTER, "--weight", "red=2"), "--weight: 'red' is no word of")
    assert not Path("out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["null-text", "dpl"])
def test_every_method_inverts_and_edits(run, method):
    result = run("edit", "photo.png", "--prompt", BEFORE, "--to", "a red car and a dog", "--method", method, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "changed: cat -> dog"
    assert Inversion.load(f"out/photo_{method}.safetensors").is_complete


@pytest.mark.slow
def test_the_cost_is_said_and_nothing_made(run):
    result = run("invert", "photo.png", "--prompt", BEFORE, "--cost", *QUICK)
    assert result.exit_code == 0 and "forward passes" in result.stdout and not Path("out").exists()


def killed(command, stop, path):
    """A command that is stopped by a signal as soon as it has saved a step: its exit code and stderr."""
    heed = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # tests in the background have a shell that ignores it
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=heed
    ) as process:
        while not path.exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(stop)
        return process.wait(), process.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_was_stopped_goes_on_and_comes_to_the_same(run, stop):
    words = ["invert", "photo.png", "--prompt", BEFORE, "--steps", "12"]
    path = Path("out/photo_null-text.safetensors")
    code, said = killed([sys.executable, "-m", "attncontrol", *words, "--output", "out"], stop, path)
    if stop == signal.SIGINT:
        assert code == 130 and "interrupted: run the same command again to go on" in said
    assert 0 < Inversion.load(path).learned < 12
    assert run(*words).exit_code == 0
    resumed = path.read_bytes()
    path.unlink()
    assert run(*words, "--overwrite").exit_code == 0
    assert path.read_bytes() == resumed


def damaged(folder):
    data = (folder / "photo.png").read_bytes()
    (folder / "photo.png").write_bytes(data[: len(data) // 2])
    return "the image is damaged"


def no_picture(folder):
    (folder / "photo.png").write_text("no picture")
    return "cannot identify image file"


def small(folder):
    Image.new("RGB", (8, 8)).save(folder / "photo.png")
    return "both sides must have at least 16"


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [damaged, no_picture, small])
def test_pictures_that_cannot_be_used_are_refused_and_nothing_is_left(run, tmp_path, spoil):
    says = spoil(tmp_path)
    for words in (["invert"], ["edit", "--to", AFTER]):
        assert failed(run(words[0], "photo.png", "--prompt", BEFORE, *words[1:], *QUICK), says)
    assert not Path("out").exists()


@pytest.mark.slow
def test_an_inversion_of_another_model_and_files_that_are_none_are_refused(run, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "tiny")
    assert run("invert", "photo.png", "--prompt", BEFORE, "--method", "ddim", *QUICK).exit_code == 0
    path = Path("out/photo_ddim.safetensors")
    before = sorted(Path("out").iterdir())
    assert failed(run("edit", path, "--to", AFTER, "--model", tmp_path / "tiny"), "the inversion is of another model")
    assert failed(
        run("invert", "photo.png", "--prompt", AFTER, "--method", "ddim", "--overwrite", *QUICK), "another inv"
    )
    path.write_bytes(path.read_bytes()[:-40])
    assert failed(run("edit", path, "--to", AFTER), "IMAGE: ", "cannot be read as an inversion")
    assert sorted(Path("out").iterdir()) == before


@pytest.mark.slow
def test_models_that_cannot_invert_say_why(run, tmp_path):
    pipe = AttentionControlPipeline.from_pretrained("emoji")
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path / "other")
    words = ["invert", "photo.png", "--prompt", BEFORE, *QUICK, "--model"]
    assert failed(run(*words, tmp_path / "other"), "EulerDiscreteScheduler, which has no inverse")
    assert failed(run(*words, "emoji-flux"), "cannot edit: editing needs a pipeline of Stable Diffusion")


@pytest.mark.slow
def test_numbers_that_are_not_finite_stop_the_command_at_their_step(run, tmp_path):
    pipe = AttentionControlPipeline.from_pretrained("emoji")
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("nan"))
    pipe.save_pretrained(tmp_path / "broken")
    result = run("invert", "photo.png", "--prompt", BEFORE, *QUICK, "--model", tmp_path / "broken")
    assert failed(result, "not finite after step 1 of 3 of the inversion")
    assert not list(Path().rglob("out/*.png"))
