"""axe finds nothing of ours on the page, in any tab, light and dark, wide and on a phone."""

import pytest
from playwright.sync_api import expect

from tests.demo.conftest import PATIENCE
from tests.demo.page import generate, open_part, open_recipe, open_tab

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Gradio's own: the name of the upload area, and of a link in its footer
NOT_OURS = {"label-content-name-mismatch": ".upload-container", "image-redundant-alt": 'img[alt="Settings"]'}


def faults(page):
    """What axe finds on the page as it is now, but for Gradio's own."""
    page.wait_for_timeout(500)  # for accordions to open
    found = axe.Axe().run(page, options={"runOnly": RULES}).response["violations"]
    return [
        (rule["id"], node["html"][:200])
        for rule in found
        for node in rule["nodes"]
        if NOT_OURS.get(rule["id"]) not in node["target"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "phone"])
def test_axe_finds_nothing_of_ours(visit, scheme, size):
    page = visit(*size, color_scheme=scheme)
    for part in ("settings", "layout", "sampling"):
        open_part(page, part)
    page.locator(".layout-editor .add").click()
    page.locator("#prompt textarea").fill("a castle and a bow")
    expect(page.locator(".subject-words .unknown")).to_have_count(1)
    generate(page)
    open_recipe(page)
    page.locator(".attention .token").first.click()
    found = {"Generate": faults(page)}
    for tab in ("Edit", "Compare", "Batch"):
        open_tab(page, tab)
        found[tab] = faults(page)
    assert not any(found.values()), found


def test_axe_finds_nothing_while_a_picture_is_drawn(visit):
    page = visit()
    page.locator("#generate").click()
    expect(page.locator(".attention.live img").first).to_be_visible()
    assert not faults(page)
