"""What a visitor does on the page, in a real browser."""

from playwright.sync_api import expect

from tests.demo.conftest import PATIENCE

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
