"""Servers of the demo on the bundled models, in this process, and one Chromium for all tests."""

import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the demo's tests need gradio: pip install 'attncontrol[demo]'")

from attncontrol.demo import Limits, Settings, build_demo
from attncontrol.demo.app import serve
from attncontrol.demo.studio import load

LIMITS = Limits(size=128, steps=100, images=3, jobs=6, upload_mb=1)
ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
POLICY = "Content Security Policy"  # in what Chromium writes to the console when it refuses something
PATIENCE = 240_000  # milliseconds; a wait that long is a failure on any machine, however busy


@pytest.fixture(scope="session")
def server():
    """The page on `emoji`, which draws faster than the default model: for whatever does not depend on the model."""
    yield from _served(Settings(model="emoji", limits=LIMITS))


@pytest.fixture(scope="session")
def default_server():
    """The page as a newcomer opens it."""
    yield from _served(Settings(limits=LIMITS))


def _served(settings):
    studio = load(settings.model, settings.device, settings.dtype)
    demo = build_demo(studio, settings.limits)
    url = serve(demo, settings.limits, block=False)
    yield SimpleNamespace(url=url, studio=studio, limits=settings.limits)
    demo.close()


@pytest.fixture(scope="session")
def chromium():
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(server, chromium):
    """visit(width=1440, ...) opens the page as a new visitor.

    Errors in the page's scripts fail the test, and what the content security policy forbids. address: another than
    the page's own; script: what runs in the page before its own scripts.
    """
    contexts, faults = [], []

    def open_page(width=1440, height=900, address=None, script="", **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if POLICY in message.text else None)
        page.add_init_script(script)
        page.goto(address or server.url)
        page.locator(".subject-words .word").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults
