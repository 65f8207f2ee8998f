"""`/docs` in a browser: no other host, a key entered once, and requests tried from it; below a path, too."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import Start, expect
from tests.server.test_process import Process

pytestmark = pytest.mark.slow


@pytest.fixture
def page(browser: Any) -> Any:
    """A page that keeps what its console says and which hosts it asks, in `faults`."""
    context = browser.new_context(viewport={"width": 1200, "height": 1400})
    page = context.new_page()
    page.faults = []
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda request: page.faults.append(request.url) if "//127.0.0.1:" not in request.url else None)
    yield page
    context.close()


def attempt(page: Any, path: str) -> Any:
    """Tries a request without parameters; gives the status that is shown."""
    block = page.locator(".opblock", has=page.locator(f'.opblock-summary-path[data-path="{path}"]')).first
    block.locator(".opblock-summary").click()
    block.locator(".try-out__btn").click()
    block.locator(".execute").click()
    return block.locator(".live-responses-table tbody td.response-col_status").first


def is_own(page: Any, expected: int) -> None:
    """Nothing came from elsewhere, and the console tells of the refusals that were expected, and of nothing else."""
    own = [each for each in page.faults if not each.startswith("data:")]
    assert [each for each in own if "401" not in each] == []
    assert len(own) == expected


def test_without_a_key(server: Process, page: Any) -> None:
    page.goto(f"http://127.0.0.1:{server.port}/docs")
    expect(page.locator(".opblock-summary-path[data-path='/v1/embeddings']")).to_be_visible()
    expect(page.locator("#key")).to_be_hidden()
    expect(attempt(page, "/v1/models")).to_contain_text("200")
    is_own(page, 0)


def test_with_a_key_and_below_a_path(start: Start, page: Any) -> None:
    server = start("--api-key", "secret", "--root-path", "/sub")
    page.goto(f"http://127.0.0.1:{server.port}/sub/docs")
    page.fill("#key-input", "wrong")
    page.click("#key button")
    expect(page.locator("#key [role=alert]")).not_to_be_empty()
    page.fill("#key-input", "secret")
    page.click("#key button")
    expect(attempt(page, "/v1/models")).to_contain_text("200")
    page.context.clear_cookies()
    page.click("button.authorize")
    page.fill(".auth-container input", "secret")
    page.click(".modal-btn.auth.authorize")
    page.click(".btn-done")
    expect(attempt(page, "/info")).to_contain_text("200")
    is_own(page, 2)
    page.goto(f"http://127.0.0.1:{server.port}/sub/")
    page.fill("#key-input", "secret")
    page.click("#key button")
    expect(page.locator("#state")).to_have_attribute("data-state", "live")
    page.locator("#text").press_sequentially("a brook")
    expect(page.locator("#offset")).to_have_text("7")


SCRIPT = """async ([url, key]) => {
  const base64url = (text) => btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const socket = new WebSocket(url, ["streambed", `streambed-api-key.${base64url(key)}`]);
  return new Promise((resolve) => {
    socket.onopen = () => socket.send('{"type": "session.create", "text": "a brook"}');
    socket.onmessage = (message) => resolve([socket.protocol, JSON.parse(message.data).type]);
    socket.onerror = () => resolve("refused");
  });
}"""


def test_a_page_of_another_origin_opens_a_stream(start: Start, server: Process, page: Any) -> None:
    """As docs/protocol.md has it; the other server is where the page is from."""
    site = f"http://localhost:{server.port}"
    keyed = start("--api-key", "secret +/?~key", "--allow-origin", f"{site}/")
    page.goto(f"{site}/livez")  # its own pages may ask no other host; this is none of them
    address = f"ws://127.0.0.1:{keyed.port}/v1/embeddings"
    assert page.evaluate(SCRIPT, [address, "secret +/?~key"]) == ["streambed", "session.created"]
    assert page.evaluate(SCRIPT, [address, "wrong"]) == "refused"
