"""The fields of the Generate tab in a real browser: what is typed, clicked, drawn or brought along."""

import re

import pytest
from playwright.sync_api import expect

from tests.demo.conftest import PATIENCE
from tests.demo.page import (
    box_numbers,
    choose,
    download,
    drag,
    generate,
    open_part,
    open_recipe,
    set_steps,
    type_prompt,
)

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)


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
    expect(page.locator("#about-method")).to_contain_text("redraw: ")
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
    page.locator(".layout-editor input[type=number]").first.fill("0.9")
    page.keyboard.press("Tab")
    expect(page.locator(".layout-editor input[type=number]").first).to_have_value("0.56")  # its right side is 0.58
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
