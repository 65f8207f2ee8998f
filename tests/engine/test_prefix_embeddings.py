"""Many vectors from one reading: each is that of the beginning on its own, and no row is computed twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streambed import Engine, InvalidRequest, TooLarge
from streambed.engine.sequence import Lane
from streambed.engine.session import Session

WORDS = [
    "the",
    " fox",
    " jumps",
    "中文",
    "ไทย",
    " 12",
    "!",
    ". ",
    "\n",
    "e\u0301",
    "🙂",
    "<|endoftext|>",
    " a b c d e f g",
]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map("".join)
share = st.floats(0, 1)


def each_alone(engine: Engine, text: str, offsets: list[int], instruction: str | None) -> np.ndarray:
    prefixes = [text[:offset] for offset in offsets]
    return engine.embed([*prefixes, "another, so that none is kept"], instruction=instruction)[:-1]


def agree(found: list[tuple[int, np.ndarray]], wanted: np.ndarray) -> None:
    for (_, vector), other in zip(found, wanted, strict=True):
        assert vector @ other >= 0.99999


@settings(max_examples=60)
@given(text=texts, shares=st.lists(share, min_size=1, max_size=70), instruction=st.sampled_from([None, "Find it"]))
def test_any_places(
    small_engine: Engine, reference_engine: Engine, text: str, shares: list[float], instruction: str | None
) -> None:
    offsets = sorted({max(1, round(share * len(text))) for share in shares})
    bulk = small_engine.submit_batch([small_engine.tokenizer.encode("some more work " * 30)] * 2, lane=Lane.BULK)
    found = small_engine.prefix_embeddings(text, offsets=offsets, instruction=instruction)
    assert [offset for offset, _ in found] == offsets
    agree(found, each_alone(reference_engine, text, offsets, instruction))
    for future in bulk:
        future.result()
    small_engine.check_integrity()


@pytest.mark.parametrize("every", ["sentence", 1, 3, 100])
def test_every(small_engine: Engine, reference_engine: Engine, every: str | int) -> None:
    text = "One fox jumps. Two foxes jump over!\nThree 犬 sleep。 End"
    found = small_engine.prefix_embeddings(text, every=every)  # type: ignore[arg-type]
    offsets = [offset for offset, _ in found]
    assert offsets[-1] == len(text)
    agree(found, each_alone(reference_engine, text, offsets, None))
    if every == "sentence":
        assert [text[:offset] for offset in offsets] == [
            "One fox jumps.",
            "One fox jumps. Two foxes jump over!\n",
            "One fox jumps. Two foxes jump over!\nThree 犬 sleep。",
            text,
        ]


def test_no_token_is_computed_twice(open_engine: Callable[..., Engine]) -> None:
    engine = open_engine(max_batch_tokens=64)
    text = "The quick brown fox jumps over the lazy dog. " * 20
    before = engine.stats()
    found = engine.prefix_embeddings(text, every="sentence")
    rows = engine.stats().rows - before.rows
    assert rows == len(engine.tokenizer.encode(text)) + len(found)


def test_places_inside_words_cost_a_few_rows_each(open_engine: Callable[..., Engine]) -> None:
    engine = open_engine(max_batch_tokens=64)
    text = "extraordinarily misunderstood characteristics " * 10
    offsets = list(range(5, len(text), 23))
    before = engine.stats().rows
    engine.prefix_embeddings(text, offsets=offsets)
    rows = engine.stats().rows - before
    assert rows <= len(engine.tokenizer.encode(text)) + 8 * len(offsets)


def test_what_was_read_serves_a_session(open_engine: Callable[..., Engine]) -> None:
    engine = open_engine()
    text = "A text about brown foxes and lazy dogs, long enough to be worth keeping."
    engine.prefix_embeddings(text, offsets=[5, 17, len(text)])
    cached = engine.submit_batch([engine.tokenizer.encode(text + " More.")])[0].result().cached_tokens
    assert cached >= len(engine.tokenizer.encode(text)) - 1


def test_dimensions(small_engine: Engine) -> None:
    (_, short), *_ = small_engine.prefix_embeddings("a b", dimensions=32)
    assert short.shape == (32,)
    assert abs(np.linalg.norm(short) - 1) < 1e-6


def test_bad_arguments(small_engine: Engine) -> None:
    for arguments in ({"offsets": [0]}, {"offsets": [2, 1]}, {"offsets": [9]}, {"every": 0}, {"dimensions": 3}):
        with pytest.raises(InvalidRequest):
            small_engine.prefix_embeddings("a text", **arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="surrogate"):
        small_engine.prefix_embeddings("a\ud800")
    with pytest.raises(TooLarge):
        small_engine.prefix_embeddings("word " * 2000)
    with pytest.raises(TooLarge):
        small_engine.prefix_embeddings("w" * 1_000_000)


def test_many_places_are_not_many_texts_of_waiting_work(open_engine: Callable[..., Engine]) -> None:
    """A place inside a word is a task of its own, and counts for what it adds."""
    engine = open_engine()
    prefixes = engine.documents.prefixes("extraordinarily misunderstood " * 20, list(range(5, 500, 3)))
    works = sum(len(one.ids) - one.behind + len(one.probes) for one in prefixes.passes)
    assert works <= len(prefixes.ids) + 8 * len(prefixes.cuts)


def test_sessions_go_on_beside(small_engine: Engine) -> None:
    with small_engine.open_session("growing") as session:
        assert isinstance(session, Session)
        small_engine.prefix_embeddings("a long text. " * 30)
        session.append(" text")
        wanted = small_engine.embed(["growing text"])[0]
        assert session.embedding() @ wanted >= 0.99999
