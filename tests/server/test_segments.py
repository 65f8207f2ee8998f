"""Sessions that outgrow the window, over real connections."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from streambed.settings import Settings
from tests.server.conftest import Live, Serve
from tests.server.test_long_input import long_text
from tests.server.test_socket import Peer, open_peer, peer

__all__ = ["peer"]


def is_of(live: Live, event: dict[str, Any], text: str, instruction: str | None = None) -> bool:
    own = live.engine.embed([text], instruction=instruction)[0]
    return bool(np.array(event["embedding"]) @ own >= 0.99999)


@pytest.mark.parametrize("instruction", [None, "Find music"])
def test_every_character_is_in_an_embedding(peer: Peer, live: Live, instruction: str | None) -> None:
    text = long_text(300)
    more = {} if instruction is None else {"instruction": instruction}
    session = peer.create(overflow="segment", emit={"on": "append"}, **more)["session"]
    for at in range(0, len(text), 333):
        peer.send("input_text.append", session=session, text=text[at : at + 333])
    last = peer.ask("embedding.create", session=session)
    finals = [event for event in peer.seen if event["type"] == "embedding.done" and event.get("final")]
    assert len(finals) == last["segment"] >= 3
    at = 0
    for number, event in enumerate([*finals, last]):
        assert event["segment"] == number
        assert not text[at : event["start"]].strip()
        at = event["offset"]
        assert is_of(live, event, text[event["start"] : at], instruction)
        assert event["usage"]["prompt_tokens"] <= live.engine.info.max_tokens
    assert at == len(text)
    for event in peer.seen:
        if event["type"] == "embedding.done":
            assert is_of(live, event, text[event["start"] : event["offset"]], instruction)


def test_spaces_before_the_text_belong_to_no_segment(peer: Peer, live: Live) -> None:
    """They may be left behind before any segment has ended; what is told of a vector is what it is of all the same."""
    text = "\n\n    " + " ".join(f"The brook {number} runs." for number in range(120))
    session = peer.create(overflow="segment")["session"]
    segment, tokens = 0, 0
    for at in range(0, len(text), 3):
        ack = peer.ask("input_text.append", session=session, text=text[at : at + 3])
        if ack["tokens"] < tokens or ack["tokens"] > live.engine.info.max_tokens - 8:
            done = peer.ask("embedding.create", session=session)
            if done["type"] == "error":  # spaces alone stand in a segment yet
                continue
            assert (done["start"], done["segment"]) == (ack["start"], ack["segment"])
            assert is_of(live, done, text[done["start"] : done["offset"]])
        segment, tokens = ack["segment"], ack["tokens"]
    assert segment >= 1


def test_it_is_announced_and_off_by_default(peer: Peer, live: Live) -> None:
    created = peer.create()
    assert created["overflow"] == "error"
    assert "segment" not in created
    refused = peer.ask("input_text.append", session=created["session"], text=long_text())
    assert refused["error"]["code"] == "too_large"
    created = peer.create(overflow="segment", text=long_text())
    assert created["segment"] >= 2
    assert created["start"] > 0
    finals = [peer.until("embedding.done", final=True) for _ in range(created["segment"])]
    assert [event["segment"] for event in finals] == list(range(created["segment"]))
    fork = peer.ask("session.fork", session=created["session"])
    assert (fork["overflow"], fork["segment"], fork["start"]) == ("segment", created["segment"], created["start"])


def test_over_http(live: Live) -> None:
    text = long_text()
    created = live.client.post("/v1/sessions", json={"overflow": "segment", "encoding_format": "base64"}).json()
    path = f"/v1/sessions/{created['session']}"
    ack = live.client.post(f"{path}/append", json={"text": text}).json()
    assert ack["segment"] >= 2
    state = live.client.get(path).json()
    assert (state["segment"], state["start"]) == (ack["segment"], ack["start"])
    done = live.client.post(f"{path}/embedding").json()
    vector = np.frombuffer(base64.b64decode(done["embedding"]), "<f4")
    assert vector @ live.engine.embed([text[done["start"] :]])[0] >= 0.99999
    assert live.client.post(f"{path}/append", json={"text": "", "offset": 0}).status_code in (200, 409)
    # A socket that takes it over hears how its segments ended.
    with open_peer(live) as peer:
        peer.ask("session.resume", session=created["session"], resume_token=created["resume_token"])
        finals = [peer.until("embedding.done", final=True) for _ in range(ack["segment"])]
        assert [event["segment"] for event in finals] == list(range(ack["segment"]))
    assert live.client.delete(path).status_code == 200


def test_the_text_of_a_session_has_a_limit_still(serve: Serve) -> None:
    live = serve(Settings(drain=5.0, max_session_characters=30_000))
    with open_peer(live) as peer:
        created = peer.create(overflow="segment")
        assert created["limits"]["max_characters"] == 30_000
        assert peer.create()["limits"]["max_characters"] == live.engine.documents.max_characters
        text = long_text(700)
        assert len(text) > 30_000
        session = created["session"]
        for at in range(0, 29_000, 1000):
            peer.ask("input_text.append", session=session, text=text[at : at + 1000])
        refused = peer.ask("input_text.append", session=session, text=text[:1001])
        assert refused["error"]["code"] == "too_large"
        assert peer.ask("embedding.create", session=session)["offset"] == 29_000
