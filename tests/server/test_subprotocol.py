"""A page of another origin opens a stream with a key."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import websockets.exceptions

from streambed import Engine
from streambed.errors import InvalidRequest
from streambed.server.subprotocol import take_key
from streambed.settings import Settings
from tests.server.conftest import Live, Servers
from tests.server.test_guard import error_of, handshake
from tests.server.test_socket import open_peer

PAGE = "https://app.example"
KEYS = ("first-key", "sb with~odd/+?= signs")


def protocol(key: str) -> str:
    return "streambed-api-key." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


@pytest.fixture(scope="module")
def keyed(engine: Engine) -> Iterator[Live]:
    servers = Servers()
    yield servers.start(engine, Settings(allow_origin=(PAGE,), drain=5.0), KEYS)
    servers.stop()


@pytest.mark.parametrize("key", KEYS)
def test_a_page_opens_a_stream(keyed: Live, key: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "streambed")
    caplog.set_level(logging.DEBUG, "uvicorn")
    with open_peer(keyed, subprotocols=["streambed", protocol(key)], origin=PAGE) as peer:
        assert peer.ws.subprotocol == "streambed", "and the key does not come back"
        session = peer.create(text="a brook")["session"]
        headers = {"Authorization": f"Bearer {key}"}
        listed = keyed.client.get("/v1/sessions", headers=headers).json()["data"]
        assert [each["session"] for each in listed] == [session], "it is the key's own"
    server_side = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets")]
    assert not any(key in line or protocol(key) in line for line in server_side)


def test_protocols_without_a_key(keyed: Live) -> None:
    key = {"Authorization": "Bearer first-key"}
    with open_peer(keyed, subprotocols=["other", "streambed"], additional_headers=key) as peer:
        assert peer.ws.subprotocol == "streambed"
    with open_peer(keyed, subprotocols=["other"], additional_headers=key) as peer:
        assert peer.ws.subprotocol is None


@pytest.mark.parametrize(
    ("protocols", "headers", "status"),
    [
        (f"streambed, {protocol('first-key')}", {}, 101),
        (f"{protocol('first-key')}, streambed", {}, 101),
        (f"streambed, {protocol('first-key')}", {"origin": PAGE}, 101),
        (f"streambed, {protocol('first-key')}", {"origin": "https://evil.example"}, 403),
        (f"streambed, {protocol('wrong')}", {"origin": PAGE}, 401),
        (f"streambed, {protocol('')}", {}, 401),
        ("streambed, streambed-api-key.a", {}, 401),
        ("streambed, streambed-api-key.first-key", {}, 401),
        ("streambed, streambed-api-key.Zmlyc3Qta2V5!", {}, 401),
        ("streambed", {"origin": PAGE}, 401),
        (protocol("first-key"), {}, 400),
        (f"streambed, {protocol('first-key')}, {protocol('wrong')}", {}, 400),
        (f"streambed, {protocol('first-key')}", {"authorization": "Bearer wrong"}, 401),
        (f"streambed, {protocol('wrong')}", {"authorization": "Bearer first-key"}, 101),
    ],
)
def test_handshakes(keyed: Live, protocols: str, headers: dict[str, str], status: int) -> None:
    answer = handshake(keyed, **{"sec-websocket-protocol": protocols}, **headers)
    assert answer.status_code == status
    if status == 101:
        assert answer.headers["sec-websocket-protocol"] == "streambed"
    else:
        assert "first-key" not in error_of(answer)["message"]


def test_a_wrong_key_is_not_mended_by_a_visit(keyed: Live) -> None:
    keyed.client.post("/playground/key", json={"api_key": "first-key"})
    cookie = f"streambed={keyed.client.cookies['streambed']}"
    keyed.client.cookies.clear()
    with (
        pytest.raises(websockets.exceptions.InvalidStatus) as refused,
        open_peer(keyed, subprotocols=["streambed", protocol("wrong")], additional_headers={"Cookie": cookie}),
    ):
        pass
    assert refused.value.response.status_code == 401


def test_a_server_without_keys_takes_any(live: Live) -> None:
    assert handshake(live, **{"sec-websocket-protocol": f"streambed, {protocol('any')}"}).status_code == 101


def test_nothing_after_sees_it() -> None:
    offered = ["streambed", protocol("first-key")]
    scope: dict[str, Any] = {
        "subprotocols": offered,
        "headers": [(b"host", b"h"), (b"sec-websocket-protocol", ", ".join(offered).encode())],
    }
    assert take_key(scope) == b"first-key"
    assert protocol("first-key") not in str(scope)
    assert take_key(scope) is None
    scope["subprotocols"] = [protocol("first-key")]
    with pytest.raises(InvalidRequest):
        take_key(scope)
    assert protocol("first-key") not in str(scope)
