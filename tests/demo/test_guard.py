"""What a real browser makes of the headers that every answer has."""

import pytest

from tests.demo.conftest import POLICY

pytestmark = pytest.mark.slow  # a browser waits for what a busy machine may be late with


def test_a_page_of_another_server_is_not_asked_though_a_script_wants_it(server, chromium):
    page = chromium.new_context().new_page()
    told = []
    page.on("console", lambda message: told.append(message.text))
    page.goto(server.url)
    page.evaluate("fetch('http://127.0.0.2:9/').catch(() => null)")
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.2:9/x.png'}))")
    page.wait_for_timeout(1000)
    page.context.close()
    assert len([text for text in told if POLICY in text]) >= 2
