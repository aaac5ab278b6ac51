"""Looking at a model's maps: they are those of its attention, whatever is kept apart, and nothing changes."""

import json

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from attncontrol import MapSettings, attach
from attncontrol.attention import maps as attention_maps
from attncontrol.cli import app
from tests import tiny
from tests.test_transformers import controlled, left_behind, method, run

PROMPT = "cat and a frog"


def look(pipe, **settings):
    output = run(pipe, PROMPT, record_maps=MapSettings(**settings))
    return output.control.images[0].word_maps, output.images


@pytest.mark.parametrize("family", ["FLUX.1", "SD 3", "PixArt-Sigma", "Z-Image", "Sana"])
def test_what_is_kept_apart_has_the_mean_that_is_kept_else(family):
    pipe = controlled(family)
    before, plain = left_behind(pipe), run(pipe, PROMPT).images
    apart, images = look(pipe, per_layer=True, per_head=True)
    assert torch.equal(images, plain) and left_behind(pipe) == before
    together, _ = look(pipe)
    steps, layers, heads, words, *size = apart.maps.shape
    assert (steps, words, size) == (2, 4, [8, 8]) and heads > 1 and layers == len(apart.layers)
    assert apart.words == ["cat", "and", "a", "frog"] and apart.steps == [0, 1]
    torch.testing.assert_close(apart.maps.mean((1, 2), keepdim=True), together.maps)
    by_head, _ = look(pipe, per_head=True)
    torch.testing.assert_close(by_head.maps, apart.maps.mean(1, keepdim=True))


def test_a_layer_is_looked_at_in_pieces(monkeypatch):
    pipe = controlled("FLUX.1")
    whole, _ = look(pipe, per_layer=True)
    monkeypatch.setattr(attention_maps, "PIECE", 4 * 2 * 600)  # four queries of both heads
    pieces, _ = look(pipe, per_layer=True)
    torch.testing.assert_close(pieces.maps, whole.maps)


def test_without_a_control_all_words_are_recorded_and_with_one_the_subjects():
    pipe = controlled("SD 3")
    record = run(pipe, PROMPT, control=None, record_maps=True).control.images[0]
    nouns = [record.word_maps.words.index(word) for word in ("cat", "frog")]
    torch.testing.assert_close(record.word_maps.maps[:, 0, 0, nouns], record.maps)
    assert record.word_maps.maps.shape == (2, 1, 1, 4, 8, 8)
    guided = run(pipe, PROMPT, control=method("syngen"), record_maps=True).control.images[0]
    assert guided.maps.shape == record.maps.shape and guided.word_maps is None


def test_every_image_of_a_guided_batch_has_the_maps_it_has_alone():
    pipe, prompts = controlled("SD 3"), [PROMPT, "a bear"]
    settings = {"control": method("conform"), "record_maps": MapSettings(per_layer=True)}
    together = run(pipe, prompts, **settings).control.images
    assert [image.word_maps.words for image in together] == [["cat", "and", "a", "frog"], ["a", "bear"]]
    for seed, prompt in enumerate(prompts):
        (alone,) = run(pipe, prompt, seed=seed, **settings).control.images
        torch.testing.assert_close(together[seed].word_maps.maps, alone.word_maps.maps, rtol=1e-3, atol=1e-5)


def test_only_chosen_steps_and_layers_are_looked_at():
    maps, _ = look(controlled("FLUX.1"), layers="single.1, joint.0", steps=[1], per_layer=True)
    assert maps.steps == [1] and maps.layers == ["joint.0", "single.1"]
    assert maps.maps.shape == (1, 2, 1, 4, 8, 8)
    with pytest.raises(ValueError, match="record_maps: there is no step 2 in this run, which has 0 to 1"):
        look(controlled("FLUX.1"), steps=[2])


def test_any_pipeline_is_looked_at_in_a_block():
    pipe, prompt = tiny.stable_diffusion(), "a cat and a frog"
    with attach(pipe, None, prompt=prompt, record_maps=MapSettings(steps=(0,))) as control:
        pipe(prompt, num_inference_steps=2, height=32, width=32, output_type="latent")
    (image,) = control.record.images
    assert image.word_maps.words == prompt.split() and image.word_maps.maps.shape[0] == len(image.maps) == 1


def test_maps_beyond_the_limit_are_refused_and_the_pipeline_is_left_as_it_was():
    pipe, step = controlled("FLUX.1"), 4 * 8 * 8 * 4
    before = left_behind(pipe)
    with pytest.raises(ValueError, match=r"the maps of 2 steps take .*fewer steps or layers"):
        look(pipe, limit=step)
    assert left_behind(pipe) == before
    assert look(pipe, limit=step, steps=[1])[0].maps.numel() * 4 == step


@pytest.mark.parametrize("wrong", [{"layers": "left"}, {"steps": [-1]}, {"steps": ["0"]}])
def test_settings_that_name_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} (cannot|must) be"):
        MapSettings(**wrong)


def test_a_prompt_without_words_is_refused():
    with pytest.raises(ValueError, match=r"record_maps: no word of '\.\.\.'"):
        attach(controlled("FLUX.1"), None, prompt="...", record_maps=MapSettings())
    assert run(controlled("FLUX.1"), "...", record_maps=True).control.images[0].word_maps is None


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
