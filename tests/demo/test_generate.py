"""The Generate tab in a real browser."""

import re
import threading
import time

import pytest
from playwright.sync_api import expect

from attncontrol.arguments import DEFAULT_CONTROL
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
    if not page.locator("#method input").is_visible():
        open_part(page, "settings")
    page.locator("#method input").click()
    page.locator("[role=option]").filter(has_text=method).first.click()


def open_recipe(page):
    page.locator("#recipe summary").click()


def download(page, path, side=-1):
    """Saves the picture without (0) or with control (-1)."""
    with page.expect_download() as download:
        page.locator(".sides .save").nth(side).click()
    download.value.save_as(path)


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
    expect(page.locator("#generate-status")).to_contain_text("Done")
    expect(page.locator(".busy")).to_have_count(0)


def test_enter_generates_and_the_focus_stays(visit):
    page = visit()
    set_steps(page, 2)
    page.locator("#prompt textarea").press("Enter")
    expect(page.locator("#generate-status")).to_contain_text("Done")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.locator("#generate").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#generate")).to_be_disabled()
    expect(page.locator("#generate")).to_be_enabled()
    expect(page.locator("#generate")).to_be_focused()


def test_a_reload_and_a_link_keep_the_fields_and_the_last_results_stay_in_a_strip(visit):
    page = visit()
    page.get_by_label("Things are in the wrong place").check()
    expect(page.locator(".layout-editor .box")).to_have_count(2)
    type_prompt(page, "a dog and a red bow", 2)
    page.locator("#automatic-layout").click()
    expect(page.locator(".layout-editor .box .name")).to_have_text(["dog", "red bow"])
    page.get_by_label("Seed", exact=True).fill("5")
    generate(page)
    boxes = box_numbers(page)
    generate(page)
    expect(page.locator(".strip button")).to_have_count(2)
    address = page.url
    page.reload()
    other = visit(address=address)
    for again in (page, other):
        expect(again.locator("#prompt textarea")).to_have_value("a dog and a red bow")
        expect(again.get_by_label("Seed", exact=True)).to_have_value("5")
        expect(again.get_by_label("Things are in the wrong place")).to_be_checked()
        expect(again.locator(".layout-editor .box .name")).to_have_text(["dog", "red bow"])
        assert box_numbers(again) == boxes
    expect(page.locator(".strip button")).to_have_count(2)
    expect(other.locator(".strip button")).to_have_count(0)
    page.locator(".strip button").last.click()
    expect(page.locator(".strip button").last).to_have_attribute("aria-pressed", "true")


def test_a_link_with_nonsense_says_so_and_the_page_works(visit, server):
    page = visit(address=f"{server.url}?prompt=a+cat&seed=x")
    expect(page.locator("#error-generate-prompt")).to_contain_text("no usable seed")
    generate(page)


def test_words_of_the_model_are_clicked_together_and_others_marked(visit):
    page = visit()
    page.locator("#prompt textarea").fill("a castle")
    unknown = page.locator(".subject-words .unknown")
    expect(unknown).to_have_count(1)
    expect(page.locator(".subject-words .warning")).to_contain_text("does not know “castle”")
    page.locator("#prompt textarea").fill("")
    bank = page.locator(".word-bank button")
    for word in ("elephant", "red", "bow"):
        bank.get_by_text(word, exact=True).click()
    expect(page.locator("#prompt textarea")).to_have_value("an elephant and a red bow")
    expect(unknown).to_have_count(0)


def test_an_aim_chooses_the_method_and_sums_can_be_typed(visit):
    page = visit()
    page.get_by_label("Colours are mixed up").check()
    expect(page.locator("#about-method")).to_contain_text("syngen: Rassin")
    open_part(page, "settings")
    expect(page.locator("#method input")).to_have_value("auto")
    page.locator("#method input").fill("ebama + 0.5*syngen")
    page.locator("#method input").press("Enter")
    expect(page.locator("#about-method")).to_contain_text("ebama: ")
    page.locator("[id='setting-syngen.step_size']").fill("3")
    generate(page)
    open_recipe(page)
    expect(page.locator("#as-command")).to_contain_text("--control 'ebama + 0.5*syngen'")
    expect(page.locator("#as-command")).to_contain_text("syngen.step_size=3")
    page.locator("#method input").fill("ebma")
    page.locator("#method input").press("Enter")
    expect(page.locator("#error-generate-method")).to_contain_text("did you mean 'ebama'")


def test_settings_come_from_the_method_and_reach_the_run(visit):
    page = visit()
    choose(page, "syngen")
    expect(page.locator("#about-method")).to_contain_text("Rassin")
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
    open_recipe(page)
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
    expect(page.locator("#generate-status")).to_contain_text("guided: crown.")


def test_chosen_subjects_survive_an_edit_where_their_words_survive(visit):
    page = visit()
    type_prompt(page, "a red crown and a blue bow", 2)
    word = page.locator(".subject-words .word")
    word.filter(has_text="bow").click()
    word.filter(has_text="blue").click()  # the crown alone
    expect(page.locator(".subject-words .noun")).to_have_text(["crown"])
    page.locator("#prompt textarea").fill("a small red crown and a blue bow beside a dog")
    expect(page.locator(".subject-words .noun")).to_have_text(["crown", "dog"])
    expect(page.locator(".subject-words .modifier")).to_have_text(["red"])


def test_what_the_tokenizer_makes_of_the_prompt_is_seen(visit):
    page = visit()
    type_prompt(page, "a hippopotamus", 1)
    title = page.locator(".subject-words .noun").get_attribute("title")
    assert re.fullmatch(r"subject; \d+ tokens: .+", title) and title.split()[-1].replace("·", "") == "hippopotamus"
    page.locator("#prompt textarea").fill("a cat and " * 30 + "a frog")
    expect(page.locator(".subject-words .word.cut").first).to_be_visible()
    expect(page.locator(".subject-words .hint")).to_contain_text("sees 77")
    expect(page.locator(".subject-words .word").last).to_be_disabled()


def test_boxes_are_drawn_moved_resized_typed_and_obeyed(visit, tmp_path):
    page = visit()
    choose(page, "layout-guidance")
    page.locator("#clear-layout").click()
    expect(page.locator(".layout-editor .box")).to_have_count(0)
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
    assert names.all_inner_texts() == ["bird", "suitcase"]
    generate(page)
    expect(page.locator(".sides .box")).to_have_count(4)
    download(page, tmp_path / "boxes.png")
    other = visit()
    other.locator("#restore input[type=file]").set_input_files(tmp_path / "boxes.png")
    expect(other.locator(".layout-editor .box .name")).to_have_text(["bird", "suitcase"])
    assert box_numbers(other) == box_numbers(page)
    open_part(other, "settings")
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
    page.locator("#clear-layout").click()
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
def test_a_card_fills_the_fields_and_shows_its_stored_result(visit, index):
    page, example = visit(), examples.read()[index]
    page.locator("#prompt textarea").fill("")
    page.locator(".card").nth(index).click()
    expect(page.locator("#prompt textarea")).to_have_value(example["prompt"])
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(example["seed"]))
    expect(page.locator(".subject-words .word.noun")).to_have_count(2)
    expect(page.locator(".layout-editor .box")).to_have_count(2 if "layout" in example else 0)
    expect(page.locator(".sentence")).to_have_text(examples.result(index)["sentence"])
    expect(page.locator(".sides .frame img")).to_have_count(2)
    expect(page.locator(".sides .box")).to_have_count(4 if "layout" in example else 0)
    expect(page.locator(".sides .verdict .no")).not_to_have_count(0)
    page.locator(".attention .token").first.click()
    expect(page.locator(".heat").first).to_be_visible()
    open_part(page, "settings")
    expect(page.locator("#method input")).to_have_value(example["method"])


@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_pictures_are_seen_before_a_click_and_nothing_jumps(visit, size):
    page = visit(*size, script=SHIFTS)
    page.wait_for_timeout(1000)
    assert page.evaluate("window.shifts") < 0.1
    seen = [page.locator(name).first.bounding_box() for name in ("#prompt", "#generate", ".sides")]
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= size[1] for box in seen)
    cards = page.locator(".card")
    assert cards.count() == 6
    for card in cards.all():
        says = card.locator(".says").bounding_box()
        box = card.bounding_box()
        assert says["y"] + says["height"] <= box["y"] + box["height"]
    if size[0] > 1000:
        last = cards.last.bounding_box()
        assert last["y"] + last["height"] <= size[1]


SHIFTS = """window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({ type: "layout-shift", buffered: true });"""


def test_several_seeds_are_several_results_of_the_strip(visit):
    page = visit()
    page.locator("#images input").fill("2")
    generate(page)
    results = page.locator(".strip button")
    expect(results).to_have_count(2)
    results.last.click()
    open_recipe(page)
    expect(page.locator("#as-command")).to_contain_text("--seed 1")


def test_a_png_without_recipe_and_a_file_that_is_none_are_refused(visit, tmp_path):
    from PIL import Image

    page = visit()
    for name, content, says in (
        ("plain.png", None, "has no recipe"),
        ("fake.gif", b"no image", "cannot read the file as a PNG image"),
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


def test_every_control_has_a_name_and_the_keyboard_reaches_it(visit):
    page = visit()
    for part in ("settings", "layout", "sampling"):
        open_part(page, part)
    page.locator(".layout-editor .canvas").press("Enter")
    expect(page.locator(".layout-editor .box")).to_have_count(1)
    word = page.locator(".subject-words .word").filter(has_text="bird")
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
    open_recipe(page)
    for tab in ("Generate", "Compare", "Batch", "Generate"):
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
