"""Exactness: whether each way to a vector leads to the same one."""

from collections.abc import Iterator
from functools import partial
from itertools import accumulate, cycle, pairwise, takewhile

import numpy as np

from streambed.doctor.report import Answer, Finding, attempt
from streambed.doctor.texts import TEXTS, cosine
from streambed.engine.engine import Engine
from streambed.errors import StreambedError
from streambed.vectors.reducers import Vectors

Pairs = Iterator[tuple[str, Vectors]]
"""A text, and the vector that came for it by some way."""

LEAST_COSINE = {"native": 0.999999, "float32": 0.99999, "bfloat16": 0.999, "int8": 0.99}
"""Rule 7 of docs/design.md. Native kernels give equal vectors; in PyTorch a last bit may be another, and with int8 decide
how a value is rounded."""
MIN_TOKENS = 64
"""A smaller window has no room for the texts."""

_EDIT = "; edited: 編集 ✎, "
_CHUNKS = (1, 4, 2, 9, 1, 1, 6, 3, 14, 5, 2, 27, 1, 8)
"""Characters of one append: no rhythm, and the same in each run."""


def examine(engine: Engine) -> Iterator[Finding]:
    """Compares streamed, edited, batched and prefix vectors with those of the same texts embedded alone."""
    if engine.info.max_tokens < MIN_TOKENS:
        yield Finding("exactness", "self-check", "note", f"left out: the texts need {MIN_TOKENS} tokens")
        return
    texts = _texts(engine)
    one_shot: dict[str, Vectors] = {}
    for way in (_streamed, _edited, _batched, _prefixes):
        yield attempt("exactness", way.__name__.strip("_"), partial(_compare, engine, way(engine, texts), one_shot))
    yield attempt("exactness", "integrity", partial(_integrity, engine))


def _texts(engine: Engine) -> list[str]:
    """The usual ones, and one that takes more than a step, all short enough to be edited."""
    room = (engine.info.max_tokens - 1) // 2
    length = min(max(room, engine.info.max_tokens - 1 - MIN_TOKENS), engine.info.max_batch_tokens + 256)
    around = " ".join(TEXTS)
    copies = 1 + length // len(engine.tokenizer.encode(around))
    long = " ".join(f"{number}. {around}" for number in range(copies))
    return [_cut(engine, text, room) for text in TEXTS] + [_cut(engine, long, length)]


def _cut(engine: Engine, text: str, most: int) -> str:
    """The beginning of a text, of at most so many tokens."""
    while (tokens := len(engine.tokenizer.encode(text))) > most:
        text = text[: min(len(text) * most // tokens, len(text) - 1)]
    return text


def _compare(engine: Engine, pairs: Pairs, one_shot: dict[str, Vectors]) -> Answer:
    """The lowest cosine to the vector of each text embedded alone, for which nothing computed before is used."""
    engine.evict()
    cosines = []
    for text, vector in list(pairs):
        if text not in one_shot:
            engine.evict()
            one_shot[text] = engine.embed([text])[0]
        cosines.append(cosine(vector, one_shot[text]))
    info = engine.info
    numbers = "native" if info.kernels == "native" else "int8" if info.has_int8 else info.dtype
    worst, least = float(np.min(cosines)), LEAST_COSINE[numbers]
    detail = f"worst cosine {worst:.7f} of {len(cosines)}"
    # A cosine that is not a number fails too.
    return ("ok", detail) if worst >= least else ("FAIL", f"{detail}; {least} is the least for {numbers}")


def _streamed(engine: Engine, texts: list[str]) -> Pairs:
    """Appended in pieces, and embedded halfway and at the end."""
    for text in texts:
        scale = 1 + len(text) // 1000  # a long text is appended in larger pieces
        ends = [0, *takewhile(len(text).__gt__, accumulate(size * scale for size in cycle(_CHUNKS))), len(text)]
        with engine.open_session() as session:
            for number, (start, end) in enumerate(pairwise(ends)):
                session.append(text[start:end])
                if number == len(ends) // 2:
                    yield session.text, session.embedding()
            _check_tokens(engine, session.text, session.tokens)
            yield text, session.embedding()


def _edited(engine: Engine, texts: list[str]) -> Pairs:
    """Changed in the middle, then changed back."""
    for text in texts:
        start, end = len(text) // 3, len(text) // 2
        changed = text[:start] + _EDIT + text[end:]
        with engine.open_session(text) as session:
            session.embedding()
            for stop, inserted, result in ((end, _EDIT, changed), (start + len(_EDIT), text[start:end], text)):
                session.replace(start, stop, inserted)
                _check_tokens(engine, result, session.tokens)
                yield result, session.embedding()


def _check_tokens(engine: Engine, text: str, tokens: list[int]) -> None:
    if tokens != engine.tokenizer.encode(engine.prompt() + text):
        raise StreambedError(f"the tokens of {text[:40]!r} are not those of the whole text")


def _batched(engine: Engine, texts: list[str]) -> Pairs:
    yield from zip(texts, engine.embed(texts), strict=True)


def _prefixes(engine: Engine, texts: list[str]) -> Pairs:
    for text in texts:
        places = sorted({-(-len(text) * part // 5) for part in range(1, 6)} - {0})
        for offset, vector in engine.prefix_embeddings(text, offsets=places):
            yield text[:offset], vector


def _integrity(engine: Engine) -> Answer:
    engine.check_integrity()
    return "ok", "scheduler and memory add up"
