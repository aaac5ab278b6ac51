"""What is seen of the page at a first look, at both widths, and reached by the keyboard or a finger."""

from functools import partial

import pytest
from playwright.sync_api import expect

from attncontrol.demo import examples
from attncontrol.models import DEFAULT_MODEL
from tests.demo.conftest import PATIENCE
from tests.demo.page import IDLE, generate, open_part, open_recipe, open_tab

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with

expect.set_options(timeout=PATIENCE)


@pytest.fixture
def visit(visit, default_server):
    """The page as a newcomer opens it."""
    return partial(visit, address=default_server.url)


@pytest.mark.parametrize("index", range(len(examples.read(DEFAULT_MODEL))))
def test_a_card_fills_the_fields_and_shows_its_stored_result(visit, index):
    page, example = visit(), examples.read(DEFAULT_MODEL)[index]
    page.locator("#prompt textarea").fill("")
    page.locator(".card").nth(index).click()
    expect(page.locator("#prompt textarea")).to_have_value(example["prompt"])
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(example["seed"]))
    expect(page.locator(".subject-words .word.noun")).to_have_count(2)
    expect(page.locator(".layout-editor .box")).to_have_count(2 if "layout" in example else 0)
    expect(page.locator(".sentence")).to_have_text(examples.result(DEFAULT_MODEL, index)["sentence"])
    expect(page.locator(".sides .frame img")).to_have_count(2)
    expect(page.locator(".sides .box")).to_have_count(4 if "layout" in example else 0)
    expect(page.locator(".sides .verdict .no")).not_to_have_count(0)
    page.locator(".attention .token").first.click()
    expect(page.locator(".heat").first).to_be_visible()
    open_part(page, "settings")
    expect(page.locator("#method input")).to_have_value(example["method"])


def test_on_a_phone_the_button_is_always_at_hand_and_a_card_shows_its_result(visit):
    page = visit(390, 844, has_touch=True, is_mobile=True)
    assert page.locator("#restore").bounding_box()["y"] > 2 * 844
    page.locator("#restore").scroll_into_view_if_needed()
    assert page.evaluate(AT_BUTTON)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    assert page.evaluate(AT_BUTTON)
    end = page.locator("#restore").bounding_box()
    assert end["y"] + end["height"] <= page.locator("#generate").bounding_box()["y"]
    page.locator(".card").last.tap()
    expect(page.locator(".sides .box")).to_have_count(4)
    for name in ("#prompt", "#result .sides"):
        box = page.locator(name).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= page.locator("#generate").bounding_box()["y"]


AT_BUTTON = """() => {
  const { x, y, width, height } = document.querySelector("#generate").getBoundingClientRect();
  return document.elementFromPoint(x + width / 2, y + height / 2)?.closest("#generate") !== null;
}"""


@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_pictures_are_seen_before_a_click_and_nothing_jumps(visit, size):
    page = visit(*size, script=SHIFTS)
    page.wait_for_timeout(1000)
    assert page.evaluate("window.shifts") < 0.1
    seen = [page.locator(name).first.bounding_box() for name in ("#prompt", "#generate", "#result .sides")]
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
    page.locator("#generate").click()
    expect(page.locator("#generate-status")).to_contain_text("Done")
    assert page.evaluate("window.shifts") < 0.1


SHIFTS = """window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({ type: "layout-shift", buffered: true });"""


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
