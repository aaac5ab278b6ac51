"""The Generate tab in a real browser."""

import re
import threading
import time

import pytest
from playwright.sync_api import expect

from attncontrol.demo import examples
from attncontrol.images.recipe import read_recipe
from tests.demo.conftest import PATIENCE

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)


IDLE = "() => new Promise((done) => requestIdleCallback(() => requestIdleCallback(done)))"


def set_steps(page, steps):
    if not page.locator("#steps input").is_visible():
        open_part(page, "sampling")
    page.locator("#steps input").fill(str(steps))
    expect(page.locator("#steps input")).to_have_value(str(steps))


def generate(page, steps=2):
    set_steps(page, steps)
    page.locator("#generate").click()
    expect(page.locator("#generate-status")).to_contain_text("Done")


def type_prompt(page, text, words):
    page.locator("#prompt textarea").fill(text)
    expect(page.locator(".subject-words .word.noun")).to_have_count(words)


def choose(page, method):
    page.locator("#method input").click()
    page.locator("[role=option]").filter(has_text=method).first.click()


def open_part(page, name):
    page.locator(f"#{name} button").first.click()
    page.wait_for_timeout(300)
    page.evaluate(IDLE)  # what opens is filled with its values by and by


def drag(page, start, end, box=".layout-editor .canvas"):
    frame = page.locator(box).first.bounding_box()
    x, y = ([frame["x"] + p[0] * frame["width"], frame["y"] + p[1] * frame["height"]] for p in (start, end))
    page.mouse.move(*x)
    page.mouse.down()
    page.mouse.move((x[0] + y[0]) / 2, (x[1] + y[1]) / 2)
    page.mouse.move(*y)
    page.mouse.up()


def box_numbers(page, row=0):
    inputs = page.locator(".layout-editor .row:not(.head)").nth(row).locator("input[type=number]")
    return [float(inputs.nth(i).input_value()) for i in range(4)]


def test_an_image_its_maps_and_its_recipe_which_restores_the_settings(visit, tmp_path):
    page = visit()
    page.get_by_label("Seed", exact=True).fill("7")
    generate(page, steps=3)
    expect(page.locator("#generate-status")).to_contain_text("guided: cat, frog")
    expect(page.locator("#before-after img")).to_have_count(2)
    page.get_by_role("tab", name="Attention").click()
    maps = page.locator("#maps img")
    expect(maps).to_have_count(4)
    mean = maps.first.get_attribute("src")
    page.locator("#map-step input[type=number]").fill("2")
    page.locator("#map-step input[type=number]").press("Enter")
    expect(maps.first).not_to_have_attribute("src", mean)
    expect(page.locator("#loss svg")).to_have_count(1)
    page.get_by_role("tab", name="Recipe").click()
    expect(page.locator("#as-command")).to_contain_text("attncontrol generate 'a cat and a frog'")
    with page.expect_download() as download:
        page.locator("#download").click()
    path = tmp_path / "image.png"
    download.value.save_as(path)
    recipe = read_recipe(path)
    assert (recipe.prompt, recipe.seed, recipe.steps) == ("a cat and a frog", 7, 3)
    assert recipe.control[0]["method"] == "attend-and-excite"

    other = visit()
    other.locator("#restore input[type=file]").set_input_files(path)
    expect(other.get_by_label("Seed", exact=True)).to_have_value("7")
    expect(other.locator("#steps input")).to_have_value("3")


def test_settings_come_from_the_method_and_reach_the_run(visit):
    page = visit()
    choose(page, "syngen")
    expect(page.locator("#about-method")).to_contain_text("Rassin")
    open_part(page, "settings")
    page.locator("#setting-distance").select_option("cosine")
    page.locator("#setting-step_size").fill("3.5")
    type_prompt(page, "a red crown and a blue bow", 2)
    page.locator("#dice").click()
    seed = page.get_by_label("Seed", exact=True)
    expect(seed).not_to_have_value("0")
    set_steps(page, 2)
    page.locator("#negative-prompt textarea").fill("a dog")
    page.locator("#width input").fill("72")
    generate(page)
    page.get_by_role("tab", name="Recipe").click()
    for part in (
        "step_size=3.5",
        "distance",
        f"--seed {seed.input_value()}",
        "--negative-prompt 'a dog'",
        "--width 72",
    ):
        expect(page.locator("#as-command")).to_contain_text(part)
    expect(page.locator("#as-python")).to_contain_text("negative_prompt='a dog'")


def test_clicks_on_words_change_the_subjects(visit):
    page = visit()
    type_prompt(page, "a red crown and a blue bow", 2)
    word = page.locator(".subject-words .word")
    expect(word.filter(has_text="red")).to_have_class(re.compile("modifier"))
    word.filter(has_text="bow").click()  # the noun goes, its modifier becomes the subject
    expect(word.filter(has_text="blue")).to_have_class(re.compile("noun"))
    word.filter(has_text="blue").click()
    word.filter(has_text="red").click()
    generate(page)
    expect(page.locator("#generate-status")).to_contain_text("guided: crown;")


def test_what_the_tokenizer_makes_of_the_prompt_is_seen(visit):
    page = visit()
    type_prompt(page, "a hippopotamus", 1)
    pieces = page.locator(".subject-words .noun small")
    expect(pieces).to_be_visible()
    assert pieces.inner_text().replace("·", "") == "hippopotamus"
    page.locator("#prompt textarea").fill("a cat and " * 30 + "a frog")
    expect(page.locator(".subject-words .word.cut").first).to_be_visible()
    expect(page.locator(".subject-words .hint")).to_contain_text("sees 77")
    expect(page.locator(".subject-words .word").last).to_be_disabled()


def test_boxes_are_drawn_moved_resized_typed_and_obeyed(visit, tmp_path):
    page = visit()
    choose(page, "layout-guidance")
    canvas = page.locator(".layout-editor .canvas")
    canvas.scroll_into_view_if_needed()
    drag(page, (0.1, 0.2), (0.4, 0.6))
    assert box_numbers(page) == [0.1, 0.2, 0.4, 0.6]
    drag(page, (0.25, 0.4), (0.35, 0.5))
    assert box_numbers(page) == [0.2, 0.3, 0.5, 0.7]
    drag(page, (0.5, 0.7), (0.6, 0.9))
    assert box_numbers(page) == [0.2, 0.3, 0.6, 0.9]
    page.keyboard.press("ArrowLeft")
    assert box_numbers(page) == [0.18, 0.3, 0.58, 0.9]
    page.locator(".layout-editor input[type=number]").first.fill("0.05")
    page.keyboard.press("Tab")
    expect(page.locator(".layout-editor .box")).to_have_attribute("style", re.compile("left: 5%"))
    drag(page, (0.7, 0.1), (0.9, 0.9))
    names = page.locator(".layout-editor .box .name")
    assert names.all_inner_texts() == ["cat", "frog"]
    generate(page)
    expect(page.locator("#boxed .box")).to_have_count(2)
    page.get_by_role("tab", name="Recipe").click()
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "boxes.png")
    other = visit()
    other.locator("#restore input[type=file]").set_input_files(tmp_path / "boxes.png")
    expect(other.locator(".layout-editor .box .name")).to_have_text(["cat", "frog"])
    assert box_numbers(other) == box_numbers(page)
    expect(other.locator("#method input")).to_have_value("layout-guidance")
    page.locator(".layout-editor .box").last.focus()
    page.keyboard.press("Delete")
    expect(names).to_have_count(1)
    page.locator("#automatic-layout").click()
    expect(names).to_have_count(2)


def test_cancel_stops_the_work(visit, server):
    page = visit()
    set_steps(page, 100)
    page.locator("#images input").fill("3")  # long enough for a press of the button to come in time on any machine
    page.locator("#generate").click()
    expect(page.locator("#generate-status .progress img")).to_be_visible()
    page.locator("#generate-cancel").click()
    expect(page.locator("#generate")).to_be_enabled()
    expect(page.locator("#generate-status")).to_have_text("Cancelled.")  # no late step overwrites it
    deadline = time.monotonic() + PATIENCE / 1000
    while any(thread.name == "demo-generate" for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the job goes on"
        time.sleep(0.1)
    page.locator("#images input").fill("1")
    generate(page)  # and the model is free again


def test_every_wrong_field_says_so_beside_itself(visit):
    page = visit()
    generate_button = page.locator("#generate")

    def wrong(name, says):
        generate_button.click()
        error = page.locator(f"#error-generate-{name}")
        expect(error).to_contain_text(says)
        expect(page.locator(".field-error")).to_have_count(1)

    page.locator("#prompt textarea").fill(" ")
    wrong("prompt", "The prompt is empty")
    type_prompt(page, "a cat and a frog", 2)
    set_steps(page, 101)
    wrong("steps", "from 1 to 100")
    set_steps(page, 2)
    page.locator("#width input").fill("60")
    wrong("width", "multiple of 8")
    page.locator("#width input").fill("64")
    page.locator("#images input").fill("9")
    wrong("images", "from 1 to 3")
    page.locator("#images input").fill("1")
    page.get_by_label("Seed", exact=True).fill("x")
    wrong("seed", "'x' is not a whole number")
    page.get_by_label("Seed", exact=True).fill("0")
    open_part(page, "settings")
    page.locator("#setting-step_size").fill("-1")
    wrong("settings", "step_size")
    choose(page, "boxdiff")
    wrong("layout", "needs boxes")
    page.locator(".layout-editor .add").click()
    page.locator(".layout-editor .row input[type=text]").fill("dog")
    page.keyboard.press("Tab")
    wrong("layout", "not in the prompt")
    choose(page, "attend-and-excite")
    for subject in ("cat", "frog"):
        page.locator(".subject-words .word").filter(has_text=subject).click()
    wrong("subjects", "name at least one")


@pytest.mark.parametrize("index", range(len(examples.read())))
def test_an_example_fills_the_fields_and_shows_its_stored_pictures(visit, index):
    page, example = visit(), examples.read()[index]
    page.locator("#prompt textarea").fill("")
    page.locator("#examples tbody tr").nth(index).click()
    expect(page.locator("#prompt textarea")).to_have_value(example["prompt"])
    expect(page.locator("#method input")).to_have_value(example["method"])
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(example["seed"]))
    expect(page.locator(".subject-words .word.noun")).to_have_count(2)
    expect(page.locator(".layout-editor .box")).to_have_count(2 if "layout" in example else 0)
    expect(page.locator("#boxed .before-after img")).to_have_count(2)


def test_the_image_selected_in_the_gallery_is_the_one_explained(visit):
    page = visit()
    page.locator("#images input").fill("2")
    generate(page)
    images = page.locator("#gallery button img")
    expect(images).to_have_count(4)
    images.nth(2).click()
    page.get_by_role("tab", name="Recipe").click()
    expect(page.locator("#as-command")).to_contain_text("--control none --seed 1")


def test_a_png_without_recipe_and_a_file_that_is_none_are_refused(visit, tmp_path):
    from PIL import Image

    page = visit()
    for name, content, says in (
        ("plain.png", None, "has no recipe"),
        ("fake.gif", b"no image", "cannot read the file as an image"),
    ):
        path = tmp_path / name
        if content is None:
            Image.new("RGB", (8, 8)).save(path)
        else:
            path.write_bytes(content)
        page.locator("#restore input[type=file]").set_input_files(path)
        expect(page.locator("#error-generate-restore")).to_contain_text(re.compile(says, re.IGNORECASE))
        page.reload()
        page.locator(".subject-words .word").first.wait_for()


def test_two_visitors_do_not_see_each_others_work(visit):
    first, second = visit(), visit()
    type_prompt(second, "a bear and a clock", 2)
    set_steps(first, 6)
    set_steps(second, 2)
    first.locator("#generate").click()
    second.locator("#generate").click()
    expect(second.locator("#generate-status")).to_contain_text("guided: bear, clock")
    expect(first.locator("#generate-status")).to_contain_text("guided: cat, frog")
    for page in (first, second):
        expect(page.locator("#gallery img")).to_have_count(2)
    first.reload()
    first.locator(".subject-words .word").first.wait_for()
    expect(first.locator("#gallery img")).to_have_count(0)


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


def test_every_control_has_a_name_and_the_keyboard_reaches_it(visit):
    page = visit()
    for part in ("settings", "layout", "sampling"):
        open_part(page, part)
    page.locator(".layout-editor .canvas").press("Enter")
    expect(page.locator(".layout-editor .box")).to_have_count(1)
    word = page.locator(".subject-words .word").filter(has_text="cat")
    word.press("Space")
    expect(word).to_have_attribute("aria-pressed", "false")
    expect(word).to_be_focused()
    for tab in ("Generate", "Compare", "Batch"):
        page.get_by_role("tab", name=tab).press("Enter")
        page.wait_for_timeout(300)
        assert page.evaluate(NAMELESS) == []


NAMELESS = """() => [...document.querySelectorAll("button, input, textarea, select, [tabindex='0']")]
  .filter((e) => e.checkVisibility() && !e.ariaLabel && !e.title && !e.textContent.trim() && !e.labels?.length
    && !e.getAttribute("aria-labelledby") && !e.getAttribute("aria-describedby") && !e.closest("label"))
  .map((e) => e.outerHTML.slice(0, 200))"""


def open_tab(page, name):
    """Opens a tab where it is shown, or in Gradio's menu of those that do not fit."""
    page.evaluate("window.dispatchEvent(new Event('resize'))")  # Gradio looks again which tabs fit
    page.evaluate(IDLE)
    tab = page.get_by_role("tab", name=name)
    if not tab.count():
        more = page.locator(".overflow-menu:not(.hide)").filter(has=page.get_by_text(name, exact=True))
        more.get_by_label("More tabs").click()
        tab = more.locator(".overflow-dropdown button").filter(has_text=name)
    tab.click()


def test_on_a_phone_nothing_sticks_out_and_touch_draws(visit):
    page = visit(width=360, height=740, has_touch=True, is_mobile=True)
    for part in ("settings", "layout", "sampling"):
        open_part(page, part)
    canvas = page.locator(".layout-editor .canvas")
    canvas.scroll_into_view_if_needed()
    frame = canvas.bounding_box()
    client = page.context.new_cdp_session(page)

    def touch(kind, *points):
        at = [{"x": frame["x"] + px * frame["width"], "y": frame["y"] + py * frame["height"]} for px, py in points]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    touch("touchStart", (0.2, 0.2))
    touch("touchMove", (0.5, 0.5))
    touch("touchMove", (0.7, 0.8))
    touch("touchEnd")
    expect(page.locator(".layout-editor .box")).to_have_count(1)
    generate(page)
    for tab in ("Images", "Attention", "Recipe", "Compare", "Batch", "Generate"):
        open_tab(page, tab)
        page.evaluate(IDLE)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(CUT) == []


# What is cut off at the right edge of the window, or of a parent that does not show what overflows.
CUT = """() => [...document.querySelectorAll("main :is(.prose *, button, input, textarea)")].filter((e) => {
  const right = e.getBoundingClientRect().right - 1;
  if (!e.checkVisibility() || e.closest("[aria-hidden=true], .scroll, .cm-editor")) return false;
  for (let parent = e.parentElement; parent; parent = parent.parentElement)
    if (getComputedStyle(parent).overflowX !== "visible" && right > parent.getBoundingClientRect().right) return true;
  return right > innerWidth;
}).map((e) => e.outerHTML.slice(0, 200))"""
