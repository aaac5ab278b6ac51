"""axe-core finds nothing on the page: `npm install --no-save axe-core` beside pyproject.toml, or it is skipped."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.demo.conftest import PATIENCE
from tests.demo.page import generate, open_part, open_recipe

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)
AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Gradio's own: the name of the upload area, and of a link in its footer
NOT_OURS = {"label-content-name-mismatch": ".upload-container", "image-redundant-alt": 'img[alt="Settings"]'}


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there: npm install --no-save axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "phone"])
def test_axe_finds_nothing_of_ours(visit, scheme, size):
    page = visit(*size, color_scheme=scheme, bypass_csp=True)
    for part in ("settings", "layout", "sampling"):
        open_part(page, part)
    page.locator(".layout-editor .add").click()
    page.locator("#prompt textarea").fill("a castle and a bow")
    expect(page.locator(".subject-words .unknown")).to_have_count(1)
    generate(page)
    open_recipe(page)
    page.locator(".attention .token").first.click()
    page.wait_for_timeout(500)  # for accordions to open
    page.add_script_tag(path=AXE)
    found = page.evaluate("(rules) => axe.run(document, { runOnly: rules })", RULES)["violations"]
    ours = [
        (rule["id"], node["html"][:200])
        for rule in found
        for node in rule["nodes"]
        if NOT_OURS.get(rule["id"]) not in node["target"]
    ]
    assert not ours
