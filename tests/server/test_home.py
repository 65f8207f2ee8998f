"""`GET /`."""

from __future__ import annotations

import pytest

from streambed.server.home import PLACES
from tests.server.conftest import Live, Serve

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def test_browsers_are_led_to_the_page(live: Live) -> None:
    reply = live.client.get("/", headers={"Accept": BROWSER})
    assert (reply.status_code, reply.headers["location"]) == (307, "/playground/")
    assert live.client.get("/", headers={"Accept": BROWSER}, follow_redirects=True).status_code == 200
    assert "accept" in reply.headers["vary"].lower()


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_others_hear_where_things_are(live: Live, accept: str) -> None:
    reply = live.client.get("/", headers={"Accept": accept})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    body = reply.json()
    assert body.pop("service") == "Streambed"
    assert body == PLACES
    for path in body.values():
        assert live.client.get(path).status_code in (200, 405), path


def test_without_a_key_it_tells_nothing_else(serve: Serve) -> None:
    live = serve(keys=("key",))
    live.client.headers.pop("authorization")
    for accept in (BROWSER, "*/*"):
        reply = live.client.get("/", headers={"Accept": accept})
        assert reply.status_code in (200, 307)
        assert live.model not in reply.text
    assert live.client.post("/", json={}).status_code == 401
