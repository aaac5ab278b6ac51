"""The page at both widths, light and dark: nothing sticks out. With --screenshots DIR also the pictures of docs/."""

from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from attncontrol.models import DEFAULT_MODEL, default_steps
from tests.demo.conftest import PATIENCE
from tests.demo.page import generate, open_part, open_tab

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)
VIEWS = {"light": {"color_scheme": "light"}, "dark": {"color_scheme": "dark"}}


@pytest.fixture
def visit(visit, default_server):
    """The page as a newcomer opens it."""
    return partial(visit, address=default_server.url)


@pytest.fixture
def steps(request):
    return default_steps(DEFAULT_MODEL) if request.config.getoption("--screenshots") else 2


@pytest.fixture
def shoot(request, tmp_path):
    """shoot(page, name) writes name.png, of few colours so that it is small, and checks the page's width."""

    def take(page, name, full=True):
        page.wait_for_timeout(500)  # for accordions to open
        width = page.viewport_size["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        folder = Path(request.config.getoption("--screenshots") or tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=full)
        with Image.open(path) as image:
            assert image.width == width
            image.convert("RGB").quantize(192).save(path, optimize=True)

    return take


@pytest.mark.parametrize("view", VIEWS)
def test_generate_on_a_wide_screen(visit, shoot, steps, view):
    page = visit(height=1150, **VIEWS[view])
    page.locator(".card").nth(4).click()
    expect(page.locator(".layout-editor .box")).to_have_count(2)
    generate(page, steps)
    page.evaluate("scrollTo(0, 0)")
    shoot(page, f"generate_{view}", full=False)
    page.locator(".attention .token").first.click()
    expect(page.locator(".sides .heat").first).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    shoot(page, f"attention_{view}", full=False)


def test_compare_on_a_wide_screen(visit, shoot, steps):
    page = visit(color_scheme="dark")
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-steps input").fill(str(steps))
    page.locator("#compare").click()
    expect(page.locator("#compare-status")).to_contain_text("Done")
    shoot(page, "compare_dark")


@pytest.mark.parametrize("view", VIEWS)
def test_on_a_phone(visit, shoot, steps, view):
    page = visit(width=360, height=740, is_mobile=True, has_touch=True, **VIEWS[view])
    for part in ("settings", "layout", "sampling"):
        open_part(page, part)
    page.locator(".layout-editor .add").click()
    generate(page, steps)
    shoot(page, f"phone_{view}")
    for tab in ("Compare", "Batch"):
        open_tab(page, tab)
        shoot(page, f"phone_{tab.lower()}_{view}")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "phone"])
def test_the_first_screen(visit, request, tmp_path, view, size):
    page = visit(*size, is_mobile=size[0] < 600, **VIEWS[view])
    page.wait_for_timeout(1000)
    folder = Path(request.config.getoption("--screenshots") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"first_{size[0]}_{view}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
