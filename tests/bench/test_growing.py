"""Many that type: every word is covered, and waits from its own time on."""

from __future__ import annotations

import asyncio
import time

from streambed.bench.growing import type_words

WORDS_A_SECOND = 100.0


class Slow:
    """A text whose embedding takes as long as three words."""

    def __init__(self) -> None:
        self.text = ""
        self.asked: list[str] = []

    async def append(self, text: str) -> None:
        self.text += text

    async def embedding(self) -> None:
        self.asked.append(self.text)
        await asyncio.sleep(3 / WORDS_A_SECOND)

    async def close(self) -> None:
        pass


def test_one_embedding_at_a_time_covers_what_was_typed_meanwhile() -> None:
    text, words = Slow(), ["a", "b", "c", "d", "e", "f", "g"]
    waits = asyncio.run(type_words(text, words, time.perf_counter(), WORDS_A_SECOND))
    assert text.text == " a b c d e f g" == text.asked[-1]
    assert len(waits) == len(words) > len(text.asked)
    assert min(waits) >= 0.03


def test_a_word_waits_from_when_it_was_due() -> None:
    """Whoever starts late has waited already."""
    waits = asyncio.run(type_words(Slow(), ["a", "b"], time.perf_counter() - 10, WORDS_A_SECOND))
    assert min(waits) >= 10 - 0.01
