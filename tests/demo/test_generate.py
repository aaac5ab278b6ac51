"""The Generate tab in a real browser: results, and how a job goes."""

import re
import threading
import time

import pytest
from playwright.sync_api import expect

from attncontrol.arguments import DEFAULT_CONTROL
from attncontrol.images.recipe import read_recipe
from tests.demo.conftest import PATIENCE
from tests.demo.page import download, generate, open_recipe, set_steps, type_prompt

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)


def test_a_picture_beside_its_plain_one_and_its_recipe_which_restores_the_settings(visit, tmp_path):
    page = visit()
    page.get_by_label("Seed", exact=True).fill("7")
    generate(page, steps=3)
    expect(page.locator("#generate-status")).to_contain_text("guided: bird, suitcase")
    expect(page.locator(".sides .frame img")).to_have_count(2)
    expect(page.locator(".sides .verdict")).to_contain_text(["bird", "suitcase"])
    expect(page.locator(".changes li")).to_contain_text(["bird: ", "suitcase: "])
    open_recipe(page)
    expect(page.locator("#as-command")).to_contain_text("attncontrol generate 'a bird and a suitcase'")
    page.locator("#recipe select").select_option("without control")
    expect(page.locator("#as-command")).to_contain_text("--control none --seed 7")
    path = tmp_path / "image.png"
    download(page, path)
    recipe = read_recipe(path)
    assert (recipe.prompt, recipe.seed, recipe.steps) == ("a bird and a suitcase", 7, 3)
    assert recipe.control[0]["method"] == DEFAULT_CONTROL
    page.locator(".as-slider input").check()
    expect(page.locator(".over .frame")).to_have_count(2)
    page.locator(".over input[type=range]").fill("80")
    expect(page.locator(".over .frame").last).to_have_attribute("style", re.compile("80%"))

    other = visit()
    other.locator("#restore input[type=file]").set_input_files(path)
    expect(other.get_by_label("Seed", exact=True)).to_have_value("7")
    expect(other.locator("#steps input")).to_have_value("3")


def pixels(page, side):
    return page.locator(".heat").nth(side).evaluate("canvas => canvas.toDataURL()")


def test_the_attention_of_a_word_is_laid_over_both_pictures_step_by_step(visit):
    page = visit()
    heat, word = page.locator(".sides .heat"), page.locator(".attention .token")
    expect(heat.first).to_be_hidden()
    word.filter(has_text="bird").hover()
    expect(heat.nth(0)).to_be_visible()
    expect(heat.nth(1)).to_be_visible()
    bird, plain = pixels(page, 1), pixels(page, 0)
    assert bird != plain
    word.filter(has_text="suitcase").hover()
    expect(word.filter(has_text="suitcase")).to_have_class(re.compile("on"))
    assert pixels(page, 1) != bird
    page.locator("#prompt textarea").hover()
    expect(heat.first).to_be_hidden()
    word.filter(has_text="suitcase").click()
    mean, scale = pixels(page, 1), page.locator(".scale output").inner_text()
    assert 0 < float(scale) < 1
    page.locator(".map-step").fill("3")
    expect(page.locator(".step-name")).to_have_text("step 3 of 30")
    assert pixels(page, 1) != mean and page.locator(".scale output").inner_text() != scale
    page.locator(".play").click()
    expect(page.locator(".step-name")).to_have_text("step 30 of 30")


def test_the_forming_picture_is_shown_while_it_is_drawn(visit):
    page = visit()
    set_steps(page, 40)
    page.locator("#generate").click()
    expect(page.locator(".busy .frame img").first).to_be_visible()
    expect(page.get_by_alt_text("the forming picture with control")).to_be_visible()
    for title in ("without control", "with control"):
        expect(page.get_by_label(f"Attention of the step just drawn, {title}")).to_contain_text("suitcase")
    expect(page.locator("#generate-status")).to_contain_text("Done")
    expect(page.locator(".busy")).to_have_count(0)


def test_enter_generates_and_the_focus_stays(visit):
    page = visit()
    set_steps(page, 2)
    page.locator("#prompt textarea").press("Enter")
    expect(page.locator("#generate-status")).to_contain_text("Done")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    set_steps(page, 30)  # long enough to see the button disabled
    page.locator("#generate").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#generate")).to_be_disabled()
    expect(page.locator("#generate")).to_be_enabled()
    expect(page.locator("#generate")).to_be_focused()


def test_cancel_stops_the_work(visit, server):
    page = visit()
    set_steps(page, 100)
    page.locator("#images input").fill("3")  # long enough for a press of the button to come in time on any machine
    page.locator("#generate").click()
    expect(page.locator(".busy .frame img").first).to_be_visible()
    page.locator("#generate-cancel").click()
    expect(page.locator("#generate")).to_be_enabled()
    expect(page.locator("#generate-status")).to_have_text("Cancelled.")  # no late step overwrites it
    expect(page.locator(".busy")).to_have_count(0)
    deadline = time.monotonic() + PATIENCE / 1000
    while any(thread.name == "demo-generate" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the job goes on"
        time.sleep(0.1)
    page.locator("#images input").fill("1")
    generate(page)  # and the model is free again


def test_several_seeds_are_several_results_of_the_strip(visit):
    page = visit()
    page.locator("#images input").fill("2")
    generate(page)
    results = page.locator(".strip button")
    expect(results).to_have_count(2)
    results.last.click()
    open_recipe(page)
    expect(page.locator("#as-command")).to_contain_text("--seed 1")


def test_two_visitors_do_not_see_each_others_work(visit):
    first, second = visit(), visit()
    type_prompt(second, "a bear and a clock", 2)
    set_steps(first, 6)
    set_steps(second, 2)
    first.locator("#generate").click()
    second.locator("#generate").click()
    expect(second.locator("#generate-status")).to_contain_text("guided: bear, clock")
    expect(first.locator("#generate-status")).to_contain_text("guided: bird, suitcase")
    for page in (first, second):
        expect(page.locator(".strip button")).to_have_count(1)


def test_a_visitor_who_waits_sees_the_place_in_the_queue_and_may_leave_it(visit):
    first, second = visit(), visit()
    for page in (first, second):
        set_steps(page, 100)
    first.locator("#generate").click()
    expect(first.locator("#generate-status .progress")).to_be_visible()
    second.locator("#generate").click()
    expect(second.locator("#generate-status")).to_contain_text("In the queue: 1 job before yours")
    second.locator("#generate-cancel").click()
    expect(second.locator("#generate-status")).to_contain_text("Cancelled")
    expect(second.locator("#generate")).to_be_enabled()
    expect(first.locator("#generate-status .progress")).to_be_visible()
    first.locator("#generate-cancel").click()
    expect(first.locator("#generate")).to_be_enabled()
