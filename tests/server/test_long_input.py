"""Texts beyond the window: merged, cut or refused, and always told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streambed.settings import Settings
from tests.server.conftest import Live, Serve

WINDOW = 512  # of the tiny checkpoint


def long_text(sentences: int = 160, seed: int = 0) -> str:
    draw = np.random.default_rng(seed)
    words = ["stone", "river", "light", "garden", "winter", "music", "paper", "ocean"]
    parts = [" ".join(draw.choice(words, draw.integers(5, 12))).capitalize() + "." for _ in range(sentences)]
    return " ".join(part + ("\n\n" if number % 6 == 5 else "") for number, part in enumerate(parts))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def by_hand(live: Live, text: str, item: dict[str, Any], instruction: str | None = None) -> np.ndarray:
    """The mean of the segments' own vectors, weighted by their tokens."""
    parts = [text[one["start"] : one["end"]] for one in item["segments"]]
    vectors = live.engine.embed(parts, instruction=instruction)
    return unit(np.average(vectors, axis=0, weights=[one["tokens"] for one in item["segments"]]))


@pytest.mark.parametrize("instruction", [None, "Find music"])
def test_three_windows_are_merged_by_default(live: Live, instruction: str | None) -> None:
    text = long_text()
    assert len(live.engine.tokenizer.encode(text)) > 3 * WINDOW
    more = {} if instruction is None else {"instruction": instruction}
    body = live.post([text, "short"], segments=True, **more).json()
    item, short = body["data"]
    assert unit(np.array(item["embedding"])) @ by_hand(live, text, item, instruction) >= 0.99999
    assert len(item["segments"]) >= 3
    for one in item["segments"]:
        own = live.engine.embed([text[one["start"] : one["end"]]], instruction=instruction)[0]
        assert np.array(one["embedding"]) @ own >= 0.99999
    assert len(short["segments"]) == 1
    (told,) = body["long_inputs"]
    assert told["index"] == 0
    assert told["segments"] == len(item["segments"])
    assert told["tokens"] == sum(one["tokens"] for one in item["segments"])
    assert told["truncated"] is False


def test_library_and_server_merge_alike(live: Live) -> None:
    text = long_text(seed=1)
    served = np.array(live.post(text, long_input="merge", dimensions=32).json()["data"][0]["embedding"])
    assert served @ live.engine.embed([text], long_input="merge", dimensions=32)[0] >= 0.99999


def test_truncated_is_told(live: Live) -> None:
    body = live.post(long_text(), long_input="truncate", segments=True).json()
    (told,) = body["long_inputs"]
    assert told == {"index": 0, "segments": 1, "tokens": WINDOW - 1, "truncated": True}
    (only,) = body["data"][0]["segments"]
    own = live.engine.embed([long_text()[: only["end"]]], long_input="truncate")[0]
    assert np.array(body["data"][0]["embedding"]) @ own >= 0.999


def test_nothing_is_told_of_short_texts(live: Live) -> None:
    body = live.post(["short", "texts"]).json()
    assert set(body) == {"object", "data", "model", "usage"}
    assert set(body["data"][0]) == {"object", "index", "embedding"}


def test_the_servers_own_way(serve: Serve) -> None:
    refusing = serve(Settings(drain=5.0, long_input="error"))
    assert refusing.post(long_text()).status_code == 413
    assert refusing.post(long_text(), long_input="merge").status_code == 200


def test_known_segments_are_not_computed(live: Live) -> None:
    text = long_text(1_200, seed=2)
    first = live.post(text, segments=True).json()["data"][0]["segments"]
    middle = len(text) // 2
    changed = text[:middle] + " Something else entirely. " + text[middle:]
    before = live.engine.stats().rows
    body = live.post(changed, segments=True, known_segments=[one["hash"] for one in first]).json()
    rows = live.engine.stats().rows - before
    item = body["data"][0]
    assert item["embedding"] is None, "a document with a segment that is not computed is not merged"
    fresh = [one for one in item["segments"] if one["embedding"] is not None]
    assert 0 < len(fresh) <= len(first) // 3
    assert rows <= sum(one["tokens"] + 1 for one in fresh)
    assert body["usage"]["prompt_tokens"] == sum(one["tokens"] + 1 for one in fresh)
    kept = {one["hash"] for one in first} & {one["hash"] for one in item["segments"]}
    assert len(kept) >= len(first) * 2 // 3


def test_all_segments_known(live: Live) -> None:
    text = long_text(seed=3)
    hashes = [one["hash"] for one in live.post(text, segments=True).json()["data"][0]["segments"]]
    body = live.post(text, segments=True, known_segments=hashes).json()
    assert [one["embedding"] for one in body["data"][0]["segments"]] == [None] * len(hashes)
    assert body["usage"]["prompt_tokens"] == 0


def test_overlap(live: Live) -> None:
    item = live.post(long_text(), segments=True, overlap=30).json()["data"][0]
    ends = [one["end"] for one in item["segments"]]
    starts = [one["start"] for one in item["segments"]]
    assert all(start < end for start, end in zip(starts[1:], ends, strict=False))


def test_far_beyond_any_window(live: Live) -> None:
    text = "word " * 20_000
    body = live.post(text).json()
    assert body["long_inputs"][0]["segments"] > 30
    assert live.post("x" * 20_000).status_code == 200
    assert live.post(" " * 60_000 + "x").status_code == 200


def test_base64_segments(live: Live) -> None:
    item = live.post(long_text(), segments=True, encoding_format="base64").json()["data"][0]
    assert isinstance(item["embedding"], str)
    assert all(isinstance(one["embedding"], str) for one in item["segments"])


def test_token_ids_are_not_merged(serve: Serve) -> None:
    live = serve(Settings(drain=5.0, accept_token_ids=True))
    assert live.post([1] * 600).status_code == 413
    assert live.post([1] * 600, long_input="truncate").status_code == 200
    assert live.post([1] * 9, segments=True).json()["error"]["param"] == "input"
    assert live.post([1] * 600, long_input="merge").status_code == 400


def test_an_instruction_that_fills_the_window(live: Live) -> None:
    reply = live.post(long_text(), instruction="word " * 500)
    assert reply.status_code == 413
