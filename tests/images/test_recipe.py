"""Images with their recipe: written whole or not at all, read back exactly, and enough to make the image again."""

import json
import os
import struct
import threading
import zlib

import pytest
import torch
from PIL import Image, ImageFile

from attncontrol import AttentionControlPipeline
from attncontrol.images.files import atomic_file, write_text
from attncontrol.images.recipe import RECIPE_KEY, Recipe, infotext, read_recipe, recipe_of, save_image
from attncontrol.images.sampling import Sampling
from attncontrol.losses.combining import control_name, control_to_json, resolve_control, with_settings
from tests.tiny import stable_diffusion


def recipe(**changes) -> Recipe:
    fields = {
        "prompt": "a cat and a frog", "seed": 7, "steps": 30, "guidance_scale": 7.5, "width": 64, "height": 48,
        "model": "emoji", "scheduler": "DDIMScheduler", "dtype": "float32", "versions": {"attncontrol": "0.1.0"},
    }  # fmt: skip
    return Recipe(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt": "Ein Löwe, 一只猫 und 🐸\nzweite Zeile", "negative_prompt": "blurry: très laid"},
        {"control": tuple(control_to_json(resolve_control("attend-and-excite"))), "layout": {"cat": [0, 0, 0.5, 1]}},
        {"subjects": ({"text": "cat", "noun": {"text": "cat", "token_indices": [2]}, "modifiers": []},)},
    ],
)
def test_a_recipe_comes_back_from_the_file_as_it_was(tmp_path, changes):
    path = tmp_path / "image.png"
    image = Image.effect_noise((64, 48), 50).convert("RGB")
    save_image(image, path, recipe(**changes))
    assert read_recipe(path) == recipe(**changes)
    with Image.open(path) as written:
        assert written.tobytes() == image.tobytes()
        assert written.text["parameters"].startswith(recipe(**changes).prompt)


def test_infotext_has_the_form_other_tools_read():
    text = infotext(recipe(negative_prompt="blurry", model="me/my: model, v2"))
    assert text == (
        "a cat and a frog\nNegative prompt: blurry\nSteps: 30, Sampler: DDIM, CFG scale: 7.5, Seed: 7, Size: 64x48, "
        'Model: "me/my: model, v2", Version: attncontrol 0.1.0'
    )


def test_control_survives_json():
    for control in (
        "attend-and-excite",
        {"method": "attend-and-excite", "thresholds": {0: 0.1, 10: 0.25}, "resolution": (16, 24), "smoothing": False},
        "attend-and-excite + 0.5*attend-and-excite",
    ):
        methods = resolve_control(control)
        assert resolve_control(json.loads(json.dumps(control_to_json(methods)))) == methods


def test_control_as_text():
    methods = resolve_control(" attend-and-excite+ 0.5 * syngen")
    assert [(weight, method.name) for weight, method in methods.parts] == [(1.0, "attend-and-excite"), (0.5, "syngen")]
    assert control_name(methods) == "attend-and-excite + 0.5*syngen"
    assert control_name(resolve_control(None)) == "plain"


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ("attend and excite", "did you mean 'attend-and-excite'"),
        ("syngen +", "lacks a method"),
        ("0.5*syngn", "did you mean 'syngen'"),
        ({"method": "syngen", "step_size": "far"}, "syngen: step_size cannot be 'far'"),
        ({"method": "syngen", "distance": "euclid"}, "syngen: distance cannot be 'euclid'"),
        ({"method": "attend-and-excite", "scale_range": [1]}, "attend-and-excite: scale_range cannot be"),
    ],
)
def test_a_wrong_control_is_explained(control, message):
    with pytest.raises(ValueError, match=message):
        resolve_control(control)


def test_settings_are_replaced_in_the_parts_that_have_them():
    methods = resolve_control("attend-and-excite + 0.5*syngen")
    changed = with_settings(methods, {"stop": "0.7", "start": 0.6, "syngen.step_size": 15, "sigma": 1})
    (_, first), (weight, second) = changed.parts
    assert (first.start, first.stop, first.step_size, first.sigma) == (0.6, 0.7, 20.0, 1.0)
    assert (weight, second.start, second.stop, second.step_size) == (0.5, 0.6, 0.7, 15.0)
    with pytest.raises(ValueError, match="did you mean 'step_size'"):
        with_settings(methods, {"stepsize": 1})
    with pytest.raises(ValueError, match=r"no setting 'conform\.sigma'"):
        with_settings(methods, {"conform.sigma": 1})


def test_a_file_is_not_replaced_unless_asked(tmp_path):
    path = tmp_path / "image.png"
    image = Image.new("RGB", (64, 48))
    save_image(image, path, recipe())
    with pytest.raises(ValueError, match="already there"):
        save_image(image, path, recipe(seed=8))
    assert read_recipe(path).seed == 7
    save_image(image, path, recipe(seed=8), overwrite=True)
    assert read_recipe(path).seed == 8
    assert [p.name for p in tmp_path.iterdir()] == ["image.png"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "scores.json"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path, overwrite=True) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("scores.json", "old")]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "text"
    contents = ["x" * 200_000, "y" * 200_000]
    write_text(path, contents[0])
    seen = set()
    writer = threading.Thread(target=lambda: [write_text(path, contents[i % 2], overwrite=True) for i in range(50)])
    writer.start()
    while writer.is_alive():
        seen.add(path.read_text())
    assert seen <= set(contents)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write"):
        write_text(tmp_path / "file" / "text", "x")
    with pytest.raises(ValueError, match="it is a folder"):
        write_text(tmp_path, "x", overwrite=True)


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "text", "x")
    assert os.stat(tmp_path / "text").st_mode == os.stat(tmp_path / "plain").st_mode


def test_images_without_a_recipe_are_refused(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(ValueError, match="no recipe"):
        read_recipe(path)
    save_image(Image.effect_noise((64, 64), 50), path, recipe(), overwrite=True)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="cannot read"):
        read_recipe(path)
    with pytest.raises(ValueError, match="cannot read"):
        read_recipe(tmp_path / "missing.png")
    save_image(Image.new("RGB", (8, 8)), path, [recipe(), recipe(seed=8)], overwrite=True)
    with pytest.raises(ValueError, match="not a recipe"):
        read_recipe(path)


def claiming(path, side):
    """A whole PNG file of a few bytes with a recipe, which says that it has side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    text = chunk(b"iTXt", RECIPE_KEY.encode() + bytes(5) + recipe().to_json().encode())
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_is_not_decoded_for_its_recipe(tmp_path, monkeypatch):
    def load(image):
        raise AssertionError("the picture was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    path = tmp_path / "image.png"
    claiming(path, 13_000)
    assert read_recipe(path) == recipe()
    claiming(path, 20_000)
    with pytest.raises(ValueError, match=r"cannot read .* as a PNG image"):
        read_recipe(path)


def test_other_files_than_png_are_not_opened(tmp_path):
    path = tmp_path / "image.png"
    for name in ("JPEG", "GIF", "EPS", "TIFF"):
        Image.new("RGB", (8, 8)).save(path, format=name)
        with pytest.raises(ValueError, match="as a PNG image"):
            read_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "recipe: Input should be an object"),
        ('{"prompt": 3}', "prompt: Input should be a valid string"),
        (recipe().to_json().replace('"seed": 7', '"sead": 7'), "seed: Field required"),
        (recipe().to_json().replace('"seed": 7', '"seed": 7, "sampler": "x"'), "sampler: Unexpected"),
    ],
)
def test_a_broken_recipe_is_explained(text, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(text)


def test_only_json_values_enter_a_recipe():
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        recipe(layout={"cat": object()}).to_json()


def test_the_recipe_makes_the_same_image_again(tmp_path):
    pipe = AttentionControlPipeline.from_pipe(stable_diffusion())
    pipe.set_progress_bar_config(disable=True)
    control = {"method": "attend-and-excite", "step_size": 50, "thresholds": {"0": 0.05}, "max_refinement_steps": 2}
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "negative_prompt": "a car", "height": 64, "width": 64}
    generator = torch.Generator().manual_seed(5)
    out = pipe("a cat and a red frog", control=control, generator=generator, **call)
    made = recipe_of(
        pipe, out.images[0], model="tiny", prompt="a cat and a red frog", seed=5, sampling=Sampling(3, 4, "a car"),
        control=resolve_control(control), record=out.control.images[0],
    )  # fmt: skip
    save_image(out.images[0], tmp_path / "image.png", made)
    read = read_recipe(tmp_path / "image.png")
    assert [(s["text"], s["noun"]["token_indices"]) for s in read.subjects] == [("cat", [2]), ("red frog", [6])]
    assert read.subjects[1]["modifiers"] == [{"text": "red", "token_indices": [5]}]
    again = pipe(
        read.prompt, negative_prompt=read.negative_prompt, control=list(read.control), height=read.height,
        width=read.width, subjects=[[2], [[5], [6]]],
        num_inference_steps=read.steps, guidance_scale=read.guidance_scale,
        generator=torch.Generator().manual_seed(read.seed),
    )  # fmt: skip
    with Image.open(tmp_path / "image.png") as written:
        assert again.images[0].tobytes() == written.tobytes()
    plain = pipe(read.prompt, generator=torch.Generator().manual_seed(read.seed), **call)
    assert plain.images[0].tobytes() != again.images[0].tobytes()
