"""The tab Edit on FLUX and its endpoints: what is read, what is refused, what is shown."""

import json
import subprocess

import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

import gradio as gr
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import expect
from typer.testing import CliRunner

from attncontrol.cli import app
from attncontrol.demo import Limits, build_demo
from attncontrol.demo.app import serve
from attncontrol.demo.insert_run import (
    as_command,
    as_python,
    can_insert,
    make_insertion,
    read_insertion,
    view_of,
)
from attncontrol.demo.studio import Studio, load
from attncontrol.demo.task import FieldError
from tests import tiny_transformers
from tests.demo.test_edit import LIMITS, pixels, png
from tests.demo.test_recipes import SHELL

ASKED = {"prompt": "a red car", "thing": "a cat", "to": "", "picture": None, "seed": 3, "steps": 4}
ASKED |= {"guidance_scale": 3.5}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A checkpoint of its own size and text length: without, every call would attend over 512 tokens of text twice."""
    folder = tmp_path_factory.mktemp("flux")
    tiny_transformers.flux().save_pretrained(folder)
    (folder / "call.json").write_text(json.dumps({"height": 32, "width": 32, "max_sequence_length": 16}))
    return load(str(folder), "cpu", "float32")


def task_of(studio, **asked):
    return read_insertion(studio, LIMITS, **{**ASKED, **asked})


def made(studio, task):
    reports = []
    return make_insertion(studio, task, reports.append), reports


@pytest.mark.parametrize("own", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_thing_is_inserted_as_the_library_does(studio, own):
    task = task_of(studio, picture=png() if own else None)
    found, reports = made(studio, task)
    source = {"source": task.picture, "prompt": "a red car"} if own else {"source": "a red car"}
    expected = studio.pipe.insert(**source, thing="a cat", seed=3, num_inference_steps=4, guidance_scale=3.5)
    assert (pixels(found.pictures[0]) == pixels(expected.sources[0])).all()
    assert (pixels(found.pictures[1]) == pixels(expected.images[0])).all()
    assert reports and all(r.done <= r.total for r in reports)
    assert [r.done for r in reports] == sorted(r.done for r in reports)


def test_a_view_has_both_sides_and_the_new_things_mask(studio):
    task = task_of(studio)
    found, _ = made(studio, task)
    view = view_of(studio, task, found)
    assert [side["title"] for side in view["sides"]] == ["before", "after"]
    assert view["prompt"] == "a red car and a cat" and view["sides"][1]["file"] == "3_a-red-car-and-a-cat_after.png"
    assert (view["maps"] is None) == (found.mask is None)
    json.dumps(view)


@pytest.mark.parametrize(
    ("asked", "at", "says"),
    [
        ({"prompt": " "}, "prompt", "The prompt is empty"),
        ({"thing": ""}, "thing", "must be named, as 'a cat'"),
        ({"to": "a red car"}, "to", "The prompts are equal"),
        ({"to": "a red car and a dog"}, "to", "does not name 'a cat'"),
        ({"steps": 11}, "steps", "from 1 to 10"),
        ({"seed": "x"}, "seed", "not a whole number"),
        ({"guidance_scale": -1}, "guidance_scale", "from 0 to 100"),
        ({"picture": b"no picture"}, "picture", "This is no PNG, JPEG or WebP picture"),
    ],
)
def test_what_cannot_be_inserted_is_said_beside_its_field(studio, asked, at, says):
    with pytest.raises(FieldError, match=says) as error:
        task_of(studio, **asked)
    assert error.value.field == at


def test_only_flux_has_this_tab(pipe, studio):
    assert can_insert(studio.pipe) and not can_insert(pipe)


def test_the_endpoints_insert_into_drawn_scenes_and_pictures(studio, tmp_path):
    limits = Limits(size=64, steps=8, images=1, upload_mb=1)
    demo = build_demo(Studio(studio.pipe, "emoji-flux"), limits)
    assert "Edit" in [block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)]
    (tmp_path / "photo.png").write_bytes(png())
    try:
        client = Client(serve(demo, limits, block=False), verbose=False, download_files=tmp_path)
        before, after, told = client.predict("a red car", "a cat", steps=4, api_name="/insert")
        assert (pixels(before) != pixels(after)).any() and told["prompt_target"] == "a red car and a cat"
        photo = handle_file(tmp_path / "photo.png")
        before, after, _ = client.predict(photo, "a red car", "a cat", steps=4, api_name="/insert_into_picture")
        assert pixels(before).shape == pixels(after).shape
        with pytest.raises(AppError, match=r"thing: .*must be named"):
            client.predict("a red car", " ", steps=4, api_name="/insert")
    finally:
        demo.close()


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
def test_both_programs_make_the_pages_bits(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    studio = load("emoji-flux", "cpu", "float32")
    (tmp_path / "picture.png").write_bytes(png((64, 64)))
    task = task_of(studio, picture=tmp_path / "picture.png" if own else None, guidance_scale=2.7182818284)
    found, _ = made(studio, task)
    exec(as_python(studio, task), {})
    read = subprocess.run(["bash", "-c", SHELL + as_command(studio, task)], check=True, capture_output=True)
    result = CliRunner().invoke(app, read.stdout.decode().split("\0")[:-1])
    assert result.exit_code == 0, result.output
    before, after = [line for line in result.stdout.splitlines() if line.endswith(".png")]
    for path, expected in zip(("before.png", "after.png", before, after), found.pictures * 2, strict=True):
        assert (pixels(path) == pixels(expected)).all(), path


@pytest.mark.slow
def test_the_tab_in_a_browser(chromium, request, tmp_path):
    limits = Limits(size=128, steps=30, images=1, upload_mb=1)
    demo = build_demo(load("emoji-flux", "cpu", "float32"), limits)
    folder = request.config.getoption("--screenshots") or tmp_path
    try:
        url = serve(demo, limits, block=False)
        for size, scheme in (((1440, 900), "light"), ((390, 844), "dark")):
            context = chromium.new_context(
                viewport=dict(zip(("width", "height"), size, strict=True)), color_scheme=scheme
            )
            page = context.new_page()
            page.goto(url)
            page.get_by_role("tab", name="Edit").click()
            page.locator("#edit-steps input").fill("28" if request.config.getoption("--screenshots") else "4")
            page.locator("#edit").click()
            expect(page.locator("#edit-status")).to_contain_text("Done")
            expect(page.locator("#edit-result .sides .frame img")).to_have_count(2)
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            page.screenshot(path=f"{folder}/insert_{size[0]}_{scheme}.png", full_page=True)
            page.locator("#edit-thing textarea, #edit-thing input").fill(" ")
            page.locator("#edit").click()
            expect(page.locator("#error-edit-thing")).to_contain_text("must be named")
            context.close()
    finally:
        demo.close()
