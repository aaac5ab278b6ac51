"""The Compare tab in a real browser."""

import json

import pytest
from PIL import Image
from playwright.sync_api import expect

from attncontrol.images.recipe import RECIPE_KEY
from tests.demo.conftest import PATIENCE
from tests.demo.page import open_part

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)


def open_tab(page):
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-steps input").fill("2")


def test_a_grid_with_the_oracles_verdicts(visit, tmp_path):
    page = visit()
    open_tab(page)
    page.locator("#compare-methods").get_by_label("layout-guidance").check()
    page.locator("#compare").click()
    expect(page.locator("#compare-status")).to_contain_text("Done")
    heads = page.locator(".comparison th[scope=col]")
    assert heads.all_inner_texts() == ["plain", "conform", "layout-guidance"]
    expect(page.locator(".comparison img")).to_have_count(6)
    verdicts = page.locator(".comparison .verdict")
    expect(verdicts).to_have_count(6)
    expect(verdicts.first).to_contain_text("suitcase")
    with page.expect_download() as download:
        page.locator("#compare-download").click()
    assert download.value.suggested_filename == "a-bird-and-a-suitcase_compare.png"


def test_boxes_drawn_on_the_tab_generate_are_used(visit, tmp_path):
    page = visit()
    open_part(page, "layout")
    page.locator(".layout-editor .add").click()
    open_tab(page)
    page.locator("#compare-prompt input, #compare-prompt textarea").first.fill("a bird and a suitcase")
    for method in ("plain", "conform"):
        page.locator("#compare-methods").get_by_label(method).uncheck()
    page.locator("#compare-methods").get_by_label("boxdiff").check()
    page.locator("#compare-layout").get_by_label("the boxes drawn").check()
    page.locator("#compare-seeds input, #compare-seeds textarea").first.fill("0")
    page.locator("#compare").click()
    with page.expect_download() as download:
        page.locator("#compare-download").click()
    download.value.save_as(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        (recipe,) = json.loads(grid.info[RECIPE_KEY])
    assert recipe["layout"] == {"bird": [[0.25, 0.25, 0.75, 0.75]]}
    page.locator("#compare-prompt input, #compare-prompt textarea").first.fill("a bear and a clock")
    page.locator("#compare").click()
    expect(page.locator("#error-compare-layout")).to_contain_text("not in the prompt")


def test_wrong_fields_say_so(visit):
    page = visit()
    open_tab(page)
    for field, text, name, says in (
        ("#compare-seeds input, #compare-seeds textarea", "1, x", "seeds", "whole numbers"),
        ("#compare-seeds input, #compare-seeds textarea", "1, 2, 3, 4", "seeds", "at most 3"),
        ("#compare-prompt input, #compare-prompt textarea", "", "prompt", "The prompt is empty"),
    ):
        page.locator(field).first.fill(text)
        page.locator("#compare").click()
        expect(page.locator(f"#error-compare-{name}")).to_contain_text(says)
        if name == "seeds":
            page.locator(field).first.fill("0")
    page.locator("#compare-prompt input, #compare-prompt textarea").first.fill("a cat and a frog")
    for label in ("plain", "conform"):
        page.locator("#compare-methods").get_by_label(label).uncheck()
    page.locator("#compare").click()
    expect(page.locator("#error-compare-methods")).to_contain_text("at least one method")
