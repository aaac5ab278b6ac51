"""The tab Edit and the endpoint /edit: what is read, what is refused, what is shown. One test in a real browser."""

import base64
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

import gradio as gr
import torch
from PIL import Image
from playwright.sync_api import expect
from typer.testing import CliRunner

from attncontrol import AttentionControlPipeline
from attncontrol.cli import app
from attncontrol.demo import Limits, build_demo
from attncontrol.demo.edit_run import (
    Inversions,
    as_command,
    as_python,
    can_edit,
    make_edit,
    read_edit,
    view_of,
    why_not_invert,
    word_maps,
)
from attncontrol.demo.edit_tab import DRAWN, OWN, EditTab, read_url
from attncontrol.demo.studio import Studio, load
from attncontrol.demo.task import FieldError
from attncontrol.images.drawing import Request, draw
from attncontrol.images.recipe import save_image
from attncontrol.images.sampling import Sampling
from attncontrol.losses import MethodSum
from tests import tiny
from tests.demo.conftest import PATIENCE
from tests.demo.page import generate
from tests.demo.test_recipes import SHELL
from tests.tiny_transformers import TRANSFORMERS

expect.set_options(timeout=PATIENCE)
LIMITS = Limits(size=64, steps=10, images=2, upload_mb=1)
ASKED = {"prompt": "a red car and a cat", "to": "a blue car and a cat", "picture": None, "method": "ddim", "seed": 3}
ASKED |= {"steps": 3, "guidance_scale": 5.0, "cross": 0.8, "self_attention": 0.4, "local": ""}


@pytest.fixture(scope="module")
def studio(pipe):
    return Studio(pipe, "tiny")


@pytest.fixture(scope="module")
def named(pipe):
    """A tab looks up what a model is best called with."""
    return Studio(pipe, "emoji")


def task_of(studio, **asked):
    return read_edit(studio, LIMITS, **{**ASKED, **asked})


def made(studio, task, path=None):
    reports = []
    return make_edit(studio, task, path, reports.append), reports


def png(size=(80, 60), mode="RGB", kind="PNG"):
    buffer = io.BytesIO()
    colours = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(colours).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def pixels(image):
    """Of a picture or a file."""
    if isinstance(image, Image.Image):
        return np.asarray(image)
    with Image.open(image) as opened:
        return np.asarray(opened)


def test_a_drawn_picture_is_edited_as_the_library_does(studio, pipe):
    task = task_of(studio, local="car, cat")
    edited, reports = made(studio, task)
    expected = pipe.edit(
        "a red car and a cat", "a blue car and a cat", seed=3, local=["car", "cat"],
        num_inference_steps=3, guidance_scale=5.0,
    )  # fmt: skip
    assert (pixels(edited.pictures[0]) == pixels(expected.sources[0])).all()
    assert (pixels(edited.pictures[1]) == pixels(expected.images[0])).all()
    assert [(r.done, r.total) for r in reports] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("method", "total"), [("ddim", 6), ("null-text", 9)])
def test_a_picture_is_inverted_first_and_its_inversion_kept(studio, method, total, tmp_path):
    task = task_of(studio, picture=png(), method=method)
    edited, reports = made(studio, task, tmp_path / "one")
    assert [(r.done, r.total) for r in reports] == [(i, total) for i in range(1, total + 1)]
    wider = task_of(studio, picture=png(), method=method, cross=0.1, self_attention=0.9)
    again, reports = made(studio, wider, tmp_path / "one")
    assert [r.done for r in reports] == list(range(total - 2, total + 1)), "the inversion was made again"
    assert (pixels(again.pictures[1]) != pixels(edited.pictures[1])).any()


def test_the_words_maps_are_those_of_the_library_and_of_their_own_sides(studio, pipe):
    task = task_of(studio, to="a big blue car and a cat")
    edited, _ = made(studio, task)
    words, maps = word_maps(studio, task, edited.maps)
    assert words == ["red → big", "red → blue", "car", "cat"]
    assert maps.shape[:3] == (2, len(words), 3)
    whole = pipe.edit(
        task.prompt, task.to, seed=3, num_inference_steps=3, guidance_scale=5.0, record_maps=True, output_type="latent"
    ).maps
    car = words.index("car")
    torch.testing.assert_close(maps[0, car], whole[0, 0, :, 3])  # a red car
    torch.testing.assert_close(maps[1, car], whole[1, 0, :, 4])  # a big blue car
    torch.testing.assert_close(whole[0].sum(2), torch.ones_like(whole[0, :, :, 0]), atol=1e-3, rtol=1e-3)


def test_an_inserted_word_has_no_attention_before(studio):
    task = task_of(studio, prompt="a cat", to="a cat and a dog")
    words, maps = word_maps(studio, task, made(studio, task)[0].maps)
    assert words == ["cat", "+ and", "+ a", "+ dog"]
    assert not maps[0, 1:].any() and (maps[1] > 0).all() and (maps[0, :1] > 0).all()


def test_a_view_has_both_sides_their_words_and_programs(studio):
    task = task_of(studio)
    edited, _ = made(studio, task)
    view = view_of(studio, task, edited)
    assert [side["title"] for side in view["sides"]] == ["before", "after"]
    assert view["sentence"] == "red → blue." and view["maps"]["words"] == ["red → blue", "car", "cat"]
    for side, expected in zip(view["sides"], edited.pictures, strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(side["image"].split(",")[1])))
        assert (pixels(image) == pixels(expected)).all()
        assert json.loads(image.info["attncontrol-edit"])["to"] == task.to
    json.dumps(view)


def test_prompts_without_a_word_to_look_for_are_shown_without_maps(studio):
    task = task_of(studio, prompt="the cat", to="the")
    assert view_of(studio, task, made(studio, task)[0])["maps"] is None


@pytest.mark.parametrize(
    ("asked", "at", "says"),
    [
        ({"prompt": " "}, "prompt", "The prompt is empty"),
        ({"to": ""}, "to", "The prompt is empty"),
        ({"to": "A red car and a cat"}, "to", "Both prompts say the same"),
        ({"to": "a cat " * 60}, "to", "lies beyond the 77 positions"),
        ({"to": "a cat " * 600}, "to", "at most 1000 are allowed"),
        ({"local": "dog"}, "local", "'dog' is no word of"),
        ({"cross": 1.5}, "cross", "give a number from 0 to 1"),
        ({"self_attention": "x"}, "self_attention", "is not a number"),
        ({"steps": 11}, "steps", "from 1 to 10"),
        ({"seed": "x"}, "seed", "not a whole number"),
        ({"method": "magic"}, "method", "Choose one of ddim, null-text, dpl"),
        ({"picture": b"no picture"}, "picture", "This is no PNG, JPEG or WebP picture"),
        ({"picture": png(kind="BMP")}, "picture", "This is no PNG, JPEG or WebP picture"),
        ({"picture": png((400, 400))[:-200]}, "picture", "damaged"),
        ({"picture": png((8, 8))}, "picture", "both sides must have at least 16"),
        ({"picture": png(), "method": "dpl", "guidance_scale": 1}, "guidance_scale", "give more than 1"),
    ],
)
def test_what_cannot_be_edited_is_said_beside_its_field(studio, asked, at, says):
    with pytest.raises(FieldError, match=says) as error:
        task_of(studio, **asked)
    assert error.value.field == at


def test_a_huge_picture_is_refused_before_it_is_decoded(studio):
    buffer = io.BytesIO()
    Image.new("1", (8192, 8192)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 2**20
    with pytest.raises(FieldError, match="more than 32 million pixels"):
        task_of(studio, picture=buffer.getvalue())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_other_modes_and_sizes_get_the_models_size(studio, mode):
    task = task_of(studio, picture=png((200, 90), mode))
    assert task.picture.mode == "RGB" and task.picture.size == (studio.size, studio.size)


def test_only_models_that_can_edit_have_the_tab_and_only_those_that_can_invert_take_pictures(named):
    assert can_edit(named.pipe) and not why_not_invert(named.pipe)
    xl = Studio(AttentionControlPipeline.from_pipe(tiny.stable_diffusion_xl()), "emoji")
    assert can_edit(xl.pipe) and "cannot invert" in why_not_invert(xl.pipe)
    with pytest.raises(FieldError, match="cannot invert") as error:
        task_of(xl, picture=png())
    assert error.value.field == "picture"
    for model, sources in ((named, [DRAWN, OWN]), (xl, [DRAWN])):
        with gr.Blocks():
            tab = EditTab(model, LIMITS, gr.HTML())
        assert [value for _, value in tab.job.fields["source"].choices] == sources
    other = Studio(AttentionControlPipeline.from_pipe(TRANSFORMERS["SD 3"]()), "emoji-flux")
    assert not can_edit(other.pipe)
    demo = build_demo(other, LIMITS)
    assert "edit" not in [function.api_name for function in demo.fns.values()]
    assert "Edit" not in [block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)]


def test_every_visitor_keeps_one_inversion(studio):
    kept = Inversions()
    assert kept.path("ann", task_of(studio)) is None
    one, other = task_of(studio, picture=png()), task_of(studio, picture=png(), steps=4)
    first = kept.path("ann", one)
    made(studio, one, first)
    assert first.exists() and kept.path("ann", one) == first != kept.path("bob", one)
    assert kept.path("ann", other) != first and not first.exists()
    last = kept.path("ann", other)
    made(studio, other, last)
    kept.forget("ann")
    assert not last.exists()


def drawn_here(studio, folder, negative=""):
    """The bytes of a picture that the demo drew of seed 7."""
    request = Request(studio.model, "a bird and a bow", Sampling(2, 5.0, negative))
    drawn = draw(studio.pipe, request, MethodSum(), 7, lambda _: None)
    save_image(drawn.image, folder / "x.png", drawn.recipe, overwrite=True)
    return (folder / "x.png").read_bytes()


@pytest.fixture
def tab(named):
    with gr.Blocks():
        return EditTab(named, LIMITS, gr.HTML())


def url_of(data):
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(("negative", "source"), [("", DRAWN), ("a dog", OWN)])
def test_the_last_result_is_drawn_again_or_inverted_if_more_than_its_seed_made_it(
    named, tab, tmp_path, negative, source
):
    fields, url = tab.job.fields, url_of(drawn_here(named, tmp_path, negative))
    filled = tab._take(url)
    assert (filled[fields["source"]], filled[fields["prompt"]]) == (source, "a bird and a bow")
    assert filled[fields["taken"]] == (url if source == OWN else "")
    assert filled.get(fields["seed"]) == (None if source == OWN else "7")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, "There is no result yet"),
        ("data:image/png;base64,x", "cannot be read"),
        (url_of(b"x"), "no PNG"),
        (url_of(b"x" * 2**21), "more than 1 MB"),
    ],
)
def test_a_last_result_that_is_none_is_said_beside_the_choice(tab, url, says):
    (told,) = tab._take(url).values()
    assert says in told.value and told.visible


def test_only_a_data_url_of_a_png_is_read():
    for url in ("/etc/passwd", "file:///etc/passwd", {"path": "/etc/passwd"}, "data:text/html;base64,eHg="):
        with pytest.raises(FieldError):
            read_url(url, LIMITS)


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_both_programs_make_the_pages_bits(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    studio = load("emoji", "cpu", "float32")
    (tmp_path / "picture.png").write_bytes(png((64, 64)))
    asked = {"picture": tmp_path / "picture.png" if own else None, "steps": 4, "guidance_scale": 2.7182818284}
    task = task_of(studio, local="car", cross=0.55, **asked)
    edited, _ = made(studio, task)
    exec(as_python(studio, task), {})
    read = subprocess.run(["bash", "-c", SHELL + as_command(studio, task)], check=True, capture_output=True)
    result = CliRunner().invoke(app, read.stdout.decode().split("\0")[:-1])
    assert result.exit_code == 0, result.output
    before, after = [path for path in map(str, result.stdout.splitlines()) if path.endswith(".png")]
    for path, expected in zip(("before.png", "after.png", before, after), edited.pictures * 2, strict=True):
        assert (pixels(path) == pixels(expected)).all(), path


@pytest.mark.slow
def test_the_tab_in_a_browser(visit):
    """A word is clicked and written over; the window slides; the last result of the tab Generate is taken."""
    page = visit()
    generate(page)
    page.get_by_role("tab", name="Edit").click()
    page.locator("#edit-sampling button").first.click()
    page.locator("#edit-steps input").fill("3")
    expect(page.locator("#edit-changes")).to_contain_text("Changes: red → blue")
    page.locator(".edit-words").get_by_role("button", name="Change “cat”").click()
    page.keyboard.type("dog")
    expect(page.locator("#edit-changes")).to_contain_text("Changes: red → blue, cat → dog")
    page.locator("#edit").click()
    expect(page.locator("#edit-status")).to_contain_text("Done")
    result = page.locator("#edit-result")
    expect(result.locator(".sides .frame img")).to_have_count(2)
    assert result.locator(".attention .token").all_inner_texts() == ["red → blue", "car", "cat → dog"]
    result.locator(".attention .token").last.click()
    expect(result.locator(".sides .heat").last).to_be_visible()
    first = result.locator(".sides img").last.get_attribute("src")
    page.locator("#edit-cross input[type=number]").fill("0.2")
    page.locator("#edit-to textarea").press("Enter")
    expect(result.locator(".strip button")).to_have_count(2)
    assert result.locator(".sides img").last.get_attribute("src") != first
    page.locator("#edit-take").click()
    expect(page.locator("#edit-prompt textarea")).to_have_value("a bird and a suitcase")
    expect(page.locator("#edit-preview img")).to_be_visible()
    page.locator("#edit-to textarea").fill("a bird and a clock")
    page.locator("#edit").click()
    expect(result.locator(".sentence")).to_contain_text("suitcase → clock")
    page.locator("#edit-to textarea").fill("a bird and a suitcase")
    page.locator("#edit").click()
    expect(page.locator("#error-edit-to")).to_contain_text("Both prompts say the same")
    page.reload()
    page.get_by_role("tab", name="Edit").click()
    expect(page.locator("#edit-result .strip button")).to_have_count(3)


@pytest.mark.slow
def test_a_picture_that_is_uploaded(visit, tmp_path):
    (tmp_path / "photo.png").write_bytes(png((90, 70)))
    (tmp_path / "text.png").write_text("no picture")
    page = visit()
    page.get_by_role("tab", name="Edit").click()
    page.locator("#edit-source").get_by_label("my own").check()
    page.locator("#edit").click()
    expect(page.locator("#error-edit-picture")).to_contain_text("Choose a picture")
    page.locator("#edit-file input[type=file]").set_input_files(tmp_path / "text.png")
    expect(page.locator("#error-edit-picture")).to_contain_text("This is no PNG, JPEG or WebP picture")
    page.locator("#edit-file").get_by_label("Remove this file").or_(
        page.locator("#edit-file").get_by_label("Clear")
    ).first.click()
    page.locator("#edit-file input[type=file]").set_input_files(tmp_path / "photo.png")
    expect(page.locator("#edit-preview img")).to_be_visible()
    page.locator("#edit-sampling button").first.click()
    page.locator("#edit-steps input").fill("3")
    page.locator("#edit").click()
    expect(page.locator("#edit-status")).to_contain_text("Done")
    expect(page.locator("#edit-result .sides .frame img")).to_have_count(2)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "phone"])
def test_nothing_sticks_out(visit, request, tmp_path, size, scheme):
    page = visit(*size, is_mobile=size[0] < 600, color_scheme=scheme)
    page.get_by_role("tab", name="Edit").click()
    page.locator("#edit-sampling button").first.click()
    page.locator("#edit-steps input").fill("30" if request.config.getoption("--screenshots") else "2")
    page.locator("#edit").click()
    expect(page.locator("#edit-status")).to_contain_text("Done")
    page.wait_for_timeout(500)
    folder = Path(request.config.getoption("--screenshots") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"edit_{size[0]}_{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
