"""The texts of an embeddings request, tokenised and divided."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from streambed.engine.engine import Engine
from streambed.errors import InvalidRequest
from streambed.settings import Settings
from streambed.text.segments import Document, LongInput, Segment, content_hash
from streambed.wire import EmbeddingsRequest, parse_input


@dataclass(frozen=True)
class Inputs:
    """What a request asks for, in its order."""

    documents: list[Document]
    """A document without segments is an empty text: nothing is computed for it."""
    hashes: list[list[str | None]] | None
    """Hashes of each document's segments; None if not asked for."""
    known: frozenset[str]

    def is_known(self, document: int, segment: int) -> bool:
        return bool(self.known) and self.hashes is not None and self.hashes[document][segment] in self.known

    @functools.cached_property
    def wanted(self) -> list[Segment]:
        """The segments to compute, in order."""
        return [
            segment
            for number, document in enumerate(self.documents)
            for place, segment in enumerate(document.segments)
            if not self.is_known(number, place)
        ]


def read_inputs(engine: Engine, settings: Settings, asked: EmbeddingsRequest, expired: Callable[[], bool]) -> Inputs:
    """Raises InvalidRequest, and what `Engine.divide` does."""
    prompt = engine.prompt(asked.instruction, asked.prompt_name, asked.input_type)
    inputs: list[str | list[int]] = [
        *parse_input(asked.input, settings.accept_token_ids, engine.tokenizer.size, asked.empty)
    ]
    room = _room(engine, asked)
    long_input = asked.long_input or settings.long_input if room is None else "truncate"
    texts, ids = [item for item in inputs if isinstance(item, str)], [item for item in inputs if isinstance(item, list)]
    if ids and (asked.segments or asked.known_segments is not None or asked.long_input == "merge"):
        raise InvalidRequest("token ids have no segments; send text, or truncate them", "input")
    if not any(inputs):
        documents = [Document([]) for _ in inputs]
    elif texts:
        documents = engine.documents.divide(texts, prompt, long_input, asked.overlap, expired)
    else:
        documents = _divide_ids(engine, prompt, ids, long_input)
    documents = [document if item else Document([]) for document, item in zip(documents, inputs, strict=True)]
    if room is not None:
        documents = [_cut(engine, *each, prompt, room) for each in zip(documents, inputs, strict=True)]
    if not asked.segments and asked.known_segments is None:
        return Inputs(documents, None, frozenset())
    hashes: list[list[str | None]] = []
    for text, document in zip(texts, documents, strict=True):
        # Where a text was cut, its last token may be one that these characters alone would not have.
        cut = document.truncated
        hashes.append([None if cut else content_hash(prompt, text[s.start : s.end]) for s in document.segments])
    return Inputs(documents, hashes, frozenset(asked.known_segments or ()))


def _room(engine: Engine, asked: EmbeddingsRequest) -> int | None:
    """Tokens that `truncate_prompt_tokens` leaves before the end token; None where it is not given."""
    kept, window = asked.truncate_prompt_tokens, engine.info.max_tokens
    if kept is None:
        return None
    if asked.long_input is not None:
        raise InvalidRequest(
            "truncate_prompt_tokens and long_input exclude each other; give one of them", "truncate_prompt_tokens"
        )
    if kept > window:
        raise InvalidRequest(
            f"truncate_prompt_tokens is {kept:,}; this model's window has {window:,} tokens", "truncate_prompt_tokens"
        )
    return (window if kept == -1 else kept) - 1


def _cut(engine: Engine, document: Document, item: str | list[int], prompt: str, room: int) -> Document:
    """The document's only segment, with at most so many tokens."""
    if not document.segments or len(document.segments[0].ids) <= room:
        return document
    ids = document.segments[0].ids[:room]
    end = max(engine.tokenizer.end_of(prompt + item, room) - len(prompt), 0) if isinstance(item, str) else 0
    return Document([Segment(0, end, ids)], min(document.prompt_tokens, room), truncated=True)


def _divide_ids(engine: Engine, prompt: str, inputs: list[list[int]], long_input: LongInput) -> list[Document]:
    start, documents = engine.documents.divide([prompt])[0].segments[0].ids, []
    for index, ids in enumerate(inputs):
        whole = start + ids
        cut = engine.documents.fit(whole, long_input == "truncate", index)
        documents.append(Document([Segment(0, 0, cut)], len(start), truncated=len(cut) < len(whole)))
    return documents
