"""`--ignore-unknown-fields`: fields that nobody knows do no harm, and replies name them."""

from __future__ import annotations

from typing import Any

import pytest

from streambed.settings import Settings
from tests.server.conftest import Live, Serve
from tests.server.test_socket import open_peer

HEADER = "X-Ignored-Fields"
KEY = "a-key"
ORIGIN = "https://page.example"
# A body for each route that takes one; a new route fails the first test until it is here.
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/embeddings": {"model": "tiny", "input": "a"},
    "POST /v1/embeddings/prefixes": {"model": "tiny", "input": "a"},
    "POST /tokenize": {"input": "a"},
    "POST /v1/sessions": {"text": "a", "emit": {"on": "manual"}, "watch": [{"id": "w", "text": "b", "threshold": 1}]},
    "POST /v1/sessions/{session}/append": {"text": "b"},
    "PUT /v1/sessions/{session}/text": {"text": "b"},
    "POST /v1/sessions/{session}/embedding": {},
    "POST /embed": {"inputs": "a"},
    "POST /api/embed": {"model": "tiny", "input": "a"},
    "POST /api/embeddings": {"model": "tiny", "prompt": "a"},
    "POST /api/show": {"model": "tiny"},
}


@pytest.fixture
def tolerant(serve: Serve) -> Live:
    return serve(Settings(ignore_unknown_fields=True, allow_origin=(ORIGIN,)), keys=(KEY,))


def send(live: Live, route: str, body: dict[str, Any]) -> Any:
    method, path = route.split(" ")
    if "{session}" in path:
        path = path.format(session=live.client.post("/v1/sessions", json={"text": "a"}).json()["session"])
    return live.client.request(method, path, json=body)


def test_every_route_ignores_and_names(tolerant: Live) -> None:
    schema = tolerant.client.get("/openapi.json").json()
    taking = {
        f"{method.upper()} {path}"
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation
    }
    assert taking == set(BODIES)
    for route, body in (BODIES | {"POST /playground/key": {"api_key": KEY}}).items():
        assert HEADER not in send(tolerant, route, body).headers
        reply = send(tolerant, route, body | {"store": True, "metadata": {"a": None}})
        assert (reply.is_success, reply.headers.get(HEADER)) == (True, "store, metadata"), route


def test_what_is_nested_is_named_with_its_place(tolerant: Live) -> None:
    body = BODIES["POST /v1/sessions"]
    watch, emit = body["watch"][0] | {"colour": 1}, body["emit"] | {"beep": 1}
    reply = tolerant.client.post("/v1/sessions", json=body | {"emit": emit, "watch": [watch]})
    assert reply.status_code == 201
    assert reply.headers[HEADER] == "emit.beep, watch[0].colour"


def test_a_reply_that_is_an_error_names_them_too(tolerant: Live) -> None:
    reply = tolerant.post("", inputs="a")
    assert (reply.status_code, reply.headers[HEADER]) == (400, "inputs")
    reply = tolerant.post("a", dimension=32, dimensions=1)
    assert (reply.status_code, reply.headers[HEADER], reply.json()["error"]["param"]) == (
        400,
        "dimension",
        "dimensions",
    )


def test_names_are_made_safe_cut_and_counted(tolerant: Live) -> None:
    names = ["a,b", "x\r\nSet-Cookie: a=b", "é🌊", "sp ace", "\x7f", "y" * 1000, "", "ok"]
    reply = tolerant.post("a", **dict.fromkeys(names))
    shown = ["a?b", "x??Set-Cookie: a=b", "??", "sp ace", "?", "y" * 64, "", "ok"]
    assert reply.status_code == 200
    assert reply.headers[HEADER].split(", ") == shown
    assert "set-cookie" not in reply.headers
    reply = tolerant.post("a", **{f"field-{n}": n for n in range(11)})
    assert reply.headers[HEADER] == ", ".join(f"field-{n}" for n in range(8)) + ", and 3 more"


def test_pages_may_read_the_header(tolerant: Live) -> None:
    reply = tolerant.post("a", headers={"Origin": ORIGIN}, store=True)
    assert reply.headers[HEADER] == "store"
    assert HEADER in reply.headers["Access-Control-Expose-Headers"].split(", ")


def test_events_of_a_socket(tolerant: Live) -> None:
    with open_peer(tolerant, additional_headers={"Authorization": f"Bearer {KEY}"}) as peer:
        created = peer.create(text="a", store=True, emit={"on": "manual", "beep": 1})
        answer = peer.ask("input_text.append", session=created["session"], text="b", colour="blue")
        assert answer["type"] == "input_text.ack"
        assert peer.ask("session.create", emit={"on": "never"})["error"]["param"] == "emit.on"


def test_without_the_setting_they_are_refused_everywhere(live: Live) -> None:
    for route, body in BODIES.items():
        reply = send(live, route, body | {"store": True})
        assert reply.is_client_error, route
        assert "unknown field 'store'" in reply.text, route  # in whatever form errors have there
        assert HEADER not in reply.headers
