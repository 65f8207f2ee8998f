"""A text longer than the window, as segments that find each other again after an edit.

A segment ends at a paragraph's, line's, sentence's or word's end in the last half of its window: the strongest kind that
there is, and among equals the one whose surroundings have the least hash. So an end depends on what stands around it and
hardly on where the segment began: two divisions that differ somewhere soon agree again (content-defined chunking, as in
Muthitacharoen, Chen and Mazieres, "A low-bandwidth network file system", 2001).
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from streambed.errors import TooLarge
from streambed.text.incremental import IncrementalTokenizer, Splits
from streambed.text.sentences import CJK_STOP, STOP
from streambed.text.strings import check_text

LongInput = Literal["merge", "truncate", "error"]
"""What to do with a text beyond the window."""

_ENDS = re.compile(rf"(?P<stop>{STOP}(?=\s)|{CJK_STOP})?(?P<space>\s+)|{CJK_STOP}")
"""Where something ends, and the spaces after it."""
_AROUND = 24
"""Characters on both sides of a place that choose among places of one kind."""
_PIECE = 256
"""A segment may end after so many characters in which nothing ends."""
_WEAKEST = 4
_LONG_TAIL = 1024
"""After so many characters without a safe split, places are tried less often."""


class Segment(NamedTuple):
    """The characters `[start, end)` of a text; spaces between segments belong to none."""

    start: int
    end: int
    ids: list[int]
    """Token ids of the prompt and these characters, without the end token."""


class Document(NamedTuple):
    """A text as it is computed: whole, cut, or in segments."""

    segments: list[Segment]
    prompt_tokens: int = 0
    """Tokens of the prompt that each segment begins with."""
    truncated: bool = False
    """Whether the text goes on after its only segment."""

    @property
    def weights(self) -> list[int]:
        """What each segment counts in the mean of all: its tokens, the prompt's not counted."""
        return [max(len(segment.ids) - self.prompt_tokens, 1) for segment in self.segments]


class _Place(NamedTuple):
    offset: int
    kind: int
    """The kind of what ends here: 0 a paragraph, 1 a line, 2 a sentence, 3 a word, 4 nothing."""
    tokens: int


def segments(splits: Splits, prompt: str, text: str, max_tokens: int, overlap: int = 0) -> Iterator[Segment]:
    """Divides a text so that prompt and segment have at most `max_tokens` tokens each; what fits is one segment.

    overlap: about how many tokens of a segment's end the next one begins with, at most a quarter of the window. One segment
    is held at a time. Cost is linear in the text where it has safe splits, as prose of any language has.

    Raises:
        InvalidRequest: a lone surrogate. TooLarge: the prompt takes more than three quarters of the window.
    """
    check_text(text)
    before = len(splits.tokenizer.encode(prompt))
    room = max_tokens - before
    if text:
        check_room(before, max_tokens)
    overlap = min(overlap, room // 4)
    stop = len(text.rstrip())  # of a text of spaces alone the first window stands for all
    start = end = 0
    while True:
        places = (
            _places(splits, prompt, text, start, max_tokens, max_tokens - room // 4) if text else [_Place(0, 0, before)]
        )
        if places[-1].offset >= stop:
            yield _segment(splits, prompt, text, start, places[-1].offset)
            return
        if start == 0 and text[0].isspace():
            start = len(text) - len(text.lstrip())
            continue
        end = _end(text, places, before, end)
        yield _segment(splits, prompt, text, start, end)
        start = _overlapping(places, end, overlap) if overlap else end
        while text[start].isspace():
            start += 1


def check_room(prompt_tokens: int, max_tokens: int) -> None:
    """Raises TooLarge where a prompt leaves less than a quarter of the window."""
    room, least = max_tokens - prompt_tokens, max(max_tokens // 4, 1)
    if room < least:
        raise TooLarge(
            f"the instruction leaves {max(room, 0):,} tokens of the window to a text in segments; "
            f"at least {least:,} are needed",
            "input",
        )


def content_hash(prompt: str, text: str) -> str:
    """Of a segment's prompt and characters: equal ones have equal vectors under one fingerprint."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (prompt, text):
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def _segment(splits: Splits, prompt: str, text: str, start: int, end: int) -> Segment:
    return Segment(start, end, splits.tokenizer.encode(prompt + text[start:end]))


def _places(splits: Splits, prompt: str, text: str, start: int, max_tokens: int, least_tokens: int) -> list[_Place]:
    """Where a segment from `start` may end, ascending; the text's end comes last, if it is within reach.

    The last one has `least_tokens` or more, unless the text ends before: where nothing ends, a place inside will do.
    """
    tokenizer = IncrementalTokenizer(splits, prompt)
    places: list[_Place] = []
    at = start
    for offset, kind in _breaks(text, start):
        if tokenizer.unsettled > _LONG_TAIL and offset - at < _PIECE and offset < len(text):
            continue  # each look encodes the tail again
        tokenizer.append(text[at:offset])
        if tokenizer.num_tokens > max_tokens:
            if not places or places[-1].tokens < least_tokens:
                places.append(_inside(splits, prompt, text, start, at, offset, max_tokens))
            break
        at = offset
        places.append(_Place(offset, kind, tokenizer.num_tokens))
    return places


def _inside(splits: Splits, prompt: str, text: str, start: int, low: int, high: int, max_tokens: int) -> _Place:
    """A place within `[low, high)` up to which the text fits, by bisection; up to `low` it does and up to `high` not."""
    count = 0
    while high - low > 1:
        middle = (low + high) // 2
        tokens = len(splits.tokenizer.encode(prompt + text[start:middle]))
        low, high, count = (middle, high, tokens) if tokens <= max_tokens else (low, middle, count)
    assert low > start, "one character fits"
    return _Place(low, _WEAKEST, count or max_tokens)


def _breaks(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Places after `start` and what ends there, at most about `_PIECE` characters apart; the text's end comes last."""
    before = at = start
    while at < len(text):
        match = _ENDS.search(text, at, at + _PIECE)
        if match is None:
            at = min(at + _PIECE, len(text))
            offset, kind = at, _WEAKEST
        else:
            space = match["space"] or ""
            lines = space.count("\n")
            at, offset = match.end(), match.end() - len(space)  # the spaces that mark an end stand after it
            kind = 0 if lines > 1 else 1 if lines else 2 if offset > match.start() else 3
        if offset > before and offset < len(text):
            before = offset
            yield offset, kind
    if before < len(text):
        yield len(text), 0


def _end(text: str, places: list[_Place], before: int, beyond: int) -> int:
    """The best place in the last half of the window; after `beyond`, where the segment before ended."""
    last = places[-1]
    least = before + (last.tokens - before) // 2
    within = [place for place in places if place.tokens >= least and place.offset > beyond]
    strongest = min(place.kind for place in within)
    return min((place.offset for place in within if place.kind == strongest), key=lambda offset: _hash(text, offset))


def _hash(text: str, offset: int) -> bytes:
    return hashlib.blake2b(text[max(0, offset - _AROUND) : offset + _AROUND].encode(), digest_size=8).digest()


def _overlapping(places: list[_Place], end: int, overlap: int) -> int:
    whole = next(place.tokens for place in places if place.offset == end)
    return next(place.offset for place in places if whole - place.tokens <= overlap)
