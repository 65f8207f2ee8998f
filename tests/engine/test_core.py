"""The thread that computes: what is urgent runs between two layers of a step of bulk."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from streambed import Engine
from streambed.engine.core import Core
from streambed.engine.sequence import Lane, Step
from streambed.engine.stats import StepReport
from tests.checkpoints import load_engine

WORDS = ["water", "runs", "down", "the", "hill", "to", "the", "old", "mill", "and", "on", "to", "the", "sea"]


def test_a_query_is_answered_before_the_step_that_it_met(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(WORDS[n % 12 :]) + f" {n}" for n in range(40)]
    expected, query = tiny_engine.embed(texts), tiny_engine.embed("a query")[0]
    tiny_engine.evict()
    steps: list[StepReport] = []
    answered: list[np.ndarray] = []
    overtake = Core._overtake

    def ask(core: Core, paused: Step) -> None:
        """On the engine's thread, where the first step of bulk pauses."""
        if not answered:
            (future,) = tiny_engine.submit_batch([tiny_engine.tokenizer.encode("a query")], lane=Lane.QUERY)
            overtake(core, paused)
            assert len(steps) == 1, "the query's; that of bulk has not ended"
            answered.append(future.result(0).vectors[0])

    monkeypatch.setattr(Core, "_overtake", ask)
    tiny_engine.compute.step_listeners.append(steps.append)
    documents = tiny_engine.documents.divide(texts)
    futures = tiny_engine.submit_batch([each.segments[0].ids for each in documents], lane=Lane.BULK)
    found = np.stack([future.result(60).vectors[0] for future in futures])
    tiny_engine.compute.step_listeners.remove(steps.append)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert (found * expected).sum(1).min() > 0.99999
    assert answered[0] @ query / np.linalg.norm(answered[0]) > 0.99999
    tiny_engine.check_integrity()


def test_streams_beside_bulk_are_exact(tiny_checkpoint: Path) -> None:
    """Typed into, evicted, closed and forked while lists go through."""
    with (
        load_engine(tiny_checkpoint, max_batch_tokens=64, kv_memory=1 << 20) as engine,
        load_engine(tiny_checkpoint) as reference,
    ):
        texts = [" ".join(WORDS[n % 12 :] * 3) + f" {n}" for n in range(60)]
        lists: list[np.ndarray] = []
        typist = threading.Thread(target=lambda: lists.extend(engine.embed(texts) for _ in range(3)))
        typist.start()
        for turn in range(6):
            with engine.open_session() as session:
                for word in WORDS[turn:]:
                    session.append(word + " ")
                    if turn % 2:
                        session.evict()
                    assert session.embedding() @ reference.embed(session.text)[0] > 0.99999
                with session.fork() as twin:
                    twin.append("and on")
                    assert twin.embedding() @ reference.embed(twin.text)[0] > 0.99999
            engine.check_integrity()
        typist.join()
        assert all((found * reference.embed(texts)).sum(1).min() > 0.99999 for found in lists)
