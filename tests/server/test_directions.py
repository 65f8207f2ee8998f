"""What somebody hears who took a wrong turn."""

from __future__ import annotations

import pytest

from streambed.server.keyring import Keyring
from streambed.server.keys import Keys
from tests.server.conftest import Live, guard_of


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/embedding", "POST /v1/embeddings"),
        ("/v1/embeddings/", "POST /v1/embeddings"),
        ("/embeddings", "POST /v1/embeddings"),
        ("/v1/v1/embeddings", "POST /v1/embeddings"),
        ("/V1/Embeddings", "POST /v1/embeddings"),
        ("/v1/model", "GET /v1/models"),
        ("/models", "GET /v1/models"),
        ("/v1/token", None),
        ("/tokenise", "POST /tokenize"),
        ("/v1/session", "GET or POST /v1/sessions"),
        ("/v1/sessions/ses_0123456789/apend", "POST /v1/sessions/{session}/append"),
        ("/v1/sessions/ses_0123456789/embeddings", "POST /v1/sessions/{session}/embedding"),
        ("/healthz", "GET /health"),
        ("/v1/chat/completions", None),
        ("/wp-login.php", None),
        ("/favicon.ico", None),
    ],
)
def test_nearest(live: Live, path: str, meant: str | None) -> None:
    reply = live.client.get(path)
    message = reply.json()["error"]["message"]
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert message.startswith(f"there is nothing at {path}")
    assert message.endswith(f"; did you mean {meant}?" if meant else "; /docs shows what there is")


@pytest.mark.parametrize("path", ["/<script>alert(1)</script>", "/a%0d%0aSet-Cookie:x", "/%E2%80%AE", "/" + "x" * 5000])
def test_no_more_of_a_path_than_is_safe(live: Live, path: str) -> None:
    message = live.client.get(path).json()["error"]["message"]
    assert len(message) < 200
    assert message.isprintable()
    assert not set("<>()\"'\r\n") & set(message.removesuffix("; /docs shows what there is"))


def test_other_methods(live: Live) -> None:
    """All that the path takes, whichever route it stands in."""
    for method, path, allow in (
        ("GET", "/v1/embeddings", "POST"),
        ("PUT", "/v1/sessions", "GET, HEAD, POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/sessions/x", "DELETE, GET, HEAD"),
        ("PATCH", "/livez", "GET, HEAD"),
    ):
        reply = live.client.request(method, path)
        assert (reply.status_code, reply.headers["allow"]) == (405, allow), path
        message = reply.json()["error"]["message"]
        assert message == f"{path} takes {' and '.join(allow.rsplit(', ', 1))}, not {method}"
    odd = live.raw(b"B<A>D /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b"<A>" not in odd


def test_strangers_hear_of_no_route(live: Live) -> None:
    keys = guard_of(live, Keys)
    before, keys.keyring = keys.keyring, Keyring(live.settings, ("key",))
    try:
        for path in ("/v1/embedding", "/v1/models/x", "/nope"):
            reply = live.client.get(path)
            assert reply.status_code == 401
            assert "mean" not in reply.text
    finally:
        keys.keyring = before
