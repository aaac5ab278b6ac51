"""The page around other models than `emoji`: the default one, and a checkpoint that the oracle knows nothing of."""

import re

import pytest
from playwright.sync_api import expect

from attncontrol import AttentionControlPipeline
from attncontrol.demo import build_demo, examples
from attncontrol.demo.app import serve
from attncontrol.demo.studio import Studio
from attncontrol.demo.task import FieldError, read_task
from attncontrol.models import DEFAULT_MODEL, default_call
from tests import tiny
from tests.demo.conftest import PATIENCE
from tests.demo.page import generate, open_part, open_recipe, set_steps

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)


@pytest.fixture
def page_of(visit, server):
    """page_of(studio) serves its page and opens it."""
    demos = []

    def open_page(studio):
        demos.append(build_demo(studio, server.limits))
        return visit(address=serve(demos[-1], server.limits, block=False))

    yield open_page
    for demo in demos:
        demo.close()


def test_the_default_page_has_cards_known_words_verdicts_and_boxes_of_its_own(visit, default_server):
    assert default_server.studio.model == DEFAULT_MODEL == "emoji-flux"
    page = visit(address=default_server.url)
    first = examples.opening("emoji-flux")
    expect(page.locator("#prompt textarea")).to_have_value(first["prompt"])
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(first["seed"]))
    expect(page.locator(".sentence")).to_have_text(examples.result("emoji-flux", 0)["sentence"])
    expect(page.locator(".word-bank button")).to_have_count(35)
    open_recipe(page)
    expect(page.locator("#as-python")).to_contain_text("max_sequence_length=32")
    boxed = [number for number, example in enumerate(examples.read("emoji-flux")) if "layout" in example]
    page.locator(".card").nth(boxed[0]).click()
    expect(page.locator(".sides .box")).to_have_count(4)
    expect(page.locator(".sides .verdict .no")).not_to_have_count(0)
    page.locator(".attention .token").first.click()
    expect(page.locator(".heat").first).to_be_visible()
    generate(page)
    expect(page.locator(".sides .verdict")).to_have_count(2)
    expect(page.locator(".sides .box")).to_have_count(4)
    expect(page.locator("#negative-prompt")).to_have_count(0)
    page.locator("#prompt textarea").fill("a castle")
    expect(page.locator(".subject-words .unknown")).to_have_attribute("title", re.compile("c·a·s·t·l·e$"))


def test_every_tab_of_the_default_page_starts_from_the_models_own_sampling(visit, default_server):
    page, call = visit(address=default_server.url), default_call(DEFAULT_MODEL)
    steps = str(call["num_inference_steps"])
    open_part(page, "sampling")
    shown = {"#steps": steps, "#guidance": "3.5", "#width": "128", "#height": "128"}
    for tab, fields in {
        "Generate": shown,
        "Edit": {"#edit-steps": steps},
        "Compare": {"#compare-steps": steps},
        "Batch": {"#batch-steps": steps},
    }.items():
        page.get_by_role("tab", name=tab).click()
        for name, value in fields.items():
            expect(page.locator(f"{name} input")).to_have_value(value)


def test_the_tab_edit_of_the_default_page_inserts_and_says_which_page_changes_words(visit, default_server):
    page = visit(address=default_server.url)
    page.get_by_role("tab", name="Edit").click()
    expect(page.locator("#edit-other")).to_contain_text("To change words")
    expect(page.locator("#edit-other")).to_contain_text("attncontrol demo --model emoji")
    page.locator("#edit-steps input").fill("4")
    page.locator("#edit").click()
    expect(page.locator("#edit-status")).to_contain_text("Done")
    expect(page.locator("#edit-result .sides .frame img")).to_have_count(2)
    expect(page.locator("#edit-result .sides .verdict")).to_contain_text(["red car", "cat"])
    expect(page.locator("#edit-result .map-step")).to_have_count(0)  # a mask has no steps
    page.locator("#edit-result .attention").get_by_role("button", name="a cat").click()
    expect(page.locator("#edit-result .heat").last).to_be_visible()


def test_the_tab_compare_of_the_default_page_judges_every_picture(visit, default_server):
    page = visit(address=default_server.url)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-steps input").fill("2")
    page.locator("#compare").click()
    expect(page.locator("#compare-status")).to_contain_text("Done. Every object there, in its colour: plain ")
    expect(page.locator(".comparison img")).to_have_count(4)
    expect(page.locator(".comparison .verdict")).to_contain_text(["frog"] * 4)


def test_what_the_bundled_flux_would_not_heed_or_read_is_refused(default_server):
    flux, limits = default_server.studio, default_server.limits
    given = {"prompt": "a cat and a frog", "steps": 2, "guidance_scale": 3.5}
    with pytest.raises(FieldError, match="heeds no negative prompt"):
        read_task(flux, limits, **given, negative_prompt="a dog")
    with pytest.raises(FieldError, match="needs 45 tokens; this model reads 32") as error:
        read_task(flux, limits, **{**given, "prompt": "a cat and " * 15})
    assert error.value.field == "prompt"


def test_another_checkpoint_has_no_cards_and_draws_all_the_same(page_of, tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    studio = Studio(AttentionControlPipeline.from_pretrained(tmp_path / "model"), str(tmp_path / "model"))
    page = page_of(studio)
    expect(page.locator("#prompt textarea")).to_have_value(examples.OPENING["prompt"])
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator(".word-bank")).to_have_count(0)
    expect(page.locator(".result-view img")).to_have_count(0)
    set_steps(page, 100)
    page.locator("#images input").fill("3")
    page.locator("#generate").click()
    expect(page.locator(".busy .frame img").first).to_be_visible()
    page.locator("#generate-cancel").click()
    expect(page.locator(".sentence")).to_contain_text("appears here")
    page.locator("#images input").fill("1")
    generate(page)
    expect(page.locator(".sides .frame img")).to_have_count(2)
    expect(page.locator(".sides .verdict span")).to_have_count(0)
    page.locator(".attention .token").first.click()
    expect(page.locator(".heat").first).to_be_visible()
    expect(page.locator("#negative-prompt")).to_be_visible()
