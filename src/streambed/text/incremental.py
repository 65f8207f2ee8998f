"""Exact incremental tokenisation: after any appends and edits, the same tokens as of the whole text in one go.

Invariant: for every possible continuation X, `encode(text + X) == committed + encode(tail + X)`. So the tokens so far are
`committed + encode(tail)`, by the tokenizer itself; what is clever here only decides how much may be committed, never what
the tokens are. Three rules allow a commit, each proven for Qwen's pipeline (added tokens, NFC, the Split regex, byte-level
BPE) and none needed for exactness of what is already there:

1. A *clean split*: between two characters whose classes end one pretoken and begin another, whatever follows.
2. A completed *added token* ends a piece; the beginning of one that may still complete holds the split back.
3. The *ancestor rule*, in a long run of letters (Chinese, Thai, base64): every tokenisation of every continuation passes
   through the last common ancestor of the tokenisations of those prefixes from which a token could still reach beyond
   the end (Jiang & Gong, "Incremental BPE Tokenization", arXiv 2605.30813, with a smaller candidate set).

A tokenizer with another pipeline never commits: its whole text is encoded again after each change. Slower, as exact.
"""

import functools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any, NamedTuple

import tokenizers
from tokenizers import pre_tokenizers

from streambed.errors import InvalidRequest, TooLarge
from streambed.text.strings import check_text, common_prefix
from streambed.text.tokenizer import Tokenizer

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CLEAN = frozenset({"LN", "LP", "LS", "LR", "NL", "NN", "NP", "NS", "NR", "PN", "PS", "RL", "RN", "RP"})
"""Pairs of classes between which Qwen's regex always splits: Letter, Number, line break (R), other Space, and the rest (P).
Exhaustively checked over short strings, and maximal: every pair that is left out has a counterexample."""

_PIECE = 512
"""Characters taken in at a time, so that pasted text leaves checkpoints and a long run costs linear time."""
_RUN = 48
"""Letters without a clean split before the ancestor rule is tried: rarer is cheaper, and the tail stays short."""
_CHECKPOINT = 128
"""Characters between checkpoints: what an edit re-encodes before its place."""


class Splits:
    """What a tokenizer's pipeline allows: which added tokens it matches, and where text may be cut."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        definition = tokenizer.definition
        added = definition.get("added_tokens") or []
        matched = [token["content"] for token in added if not (tokenizer.special_tokens == "text" and token["special"])]
        self.exact = _is_qwen_pipeline(definition) and _are_separable(added)
        self._added = re.compile("|".join(map(re.escape, sorted(matched, key=len, reverse=True))) or r"(?!)")
        self._partial = frozenset(token[:end] for token in matched for end in range(1, len(token)))
        self._first = frozenset(token[0] for token in matched)
        self.look_ahead = 2 + max((len(token["content"]) for token in added), default=0)
        """A commit by rule 1 or 2 looked at most this many characters beyond its place."""

    def find(self, tail: str, known: int) -> tuple[int, int]:
        """The last place where `tail` may be cut by rules 1 and 2 (0: none), and up to where there is none.

        Places below `known` (from the call before, for a tail that was only appended to) are not looked at again.
        """
        start = 0
        if any(first in tail for first in self._first):
            for match in self._added.finditer(tail):
                start = match.end()
        limit = min(self._held(tail), len(tail) - 1)
        for place in range(limit, max(start, known, 1) - 1, -1):
            if place > start and _is_clean(tail[place - 1], tail[place]):
                return place, place
        return start, max(known, limit)

    def _held(self, tail: str) -> int:
        """Where an added token begins that the end of `tail` leaves incomplete; the length of `tail` where there is none."""
        hold = max((tail.rfind(first) for first in self._first), default=-1)
        return hold if hold >= 0 and tail[hold:] in self._partial else len(tail)

    def find_ancestor(self, tail: str) -> int:
        """Rule 3: a place inside the run of letters that ends `tail` whose tokens no continuation changes (0: none)."""
        end = len(tail)
        run = end
        while run and _is_letter(tail[run - 1]):
            run -= 1
        if end - run <= _RUN or self._held(tail) < end:
            return 0
        backend = self.tokenizer.backend
        pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(tail))
        # The last character stays out: a mark may still combine with it. Byte-level text: one character per byte.
        known = pieces[-1][0][: -len(tail[-1].encode())]
        boundaries = self._common_boundaries(known)
        # Walk the run's characters from its end, keeping its own first letter on the left of the cut.
        at, place = len(known), end - 1
        while place > run:
            if at in boundaries:
                return place
            place -= 1
            at -= len(tail[place].encode())
        return 0

    def _common_boundaries(self, known: str) -> set[int]:
        """Token boundaries that every continuation of the byte-level text `known` has."""
        longest, ordered = self._vocabulary
        common: set[int] | None = None
        for begin in range(max(0, len(known) - longest), len(known) + 1):
            if not _begins_a_token(known[begin:], ordered):
                continue
            boundaries, at = {0}, 0
            for token in self._bpe.encode(known[:begin], add_special_tokens=False).tokens:
                at += len(token)
                boundaries.add(at)
            common = boundaries if common is None else common & boundaries
        assert common, "the end itself is always a candidate, and 0 always common"
        return common

    @functools.cached_property
    def _bpe(self) -> tokenizers.Tokenizer:
        """The BPE stage alone, on byte-level text."""
        return tokenizers.Tokenizer(self.tokenizer.backend.model)

    @functools.cached_property
    def _vocabulary(self) -> tuple[int, list[str]]:
        tokens = sorted(self.tokenizer.definition["model"]["vocab"])
        return max(map(len, tokens)), tokens


class _Checkpoint(NamedTuple):
    """The first `place` characters are the first `tokens` tokens, for every text that begins with the same `needed` ones."""

    place: int
    tokens: int
    needed: int


@dataclass(frozen=True)
class _State:
    text: str
    tail: int
    known: int
    checkpoints: int
    cut: list[int]
    cut_checkpoints: list[_Checkpoint]
    committed: int


class IncrementalTokenizer:
    """The tokens of one growing text, under a fixed prompt. Not for sharing between threads.

    Places are code points of the text, the prompt not counted.
    """

    def __init__(self, splits: Splits, prompt: str = "") -> None:
        check_text(prompt)
        self._splits = splits
        self._prompt = prompt
        self._whole = ""  # prompt and text
        self._committed: list[int] = []
        self._tail = 0  # where the uncommitted text begins
        self._known = 0  # no clean split between the tail's begin and this place of the tail
        self._checkpoints = [_Checkpoint(0, 0, 0)]
        self._tail_tokens: list[int] | None = []
        self._change(len(self._whole), prompt)

    @property
    def text(self) -> str:
        return self._whole[len(self._prompt) :]

    @property
    def length(self) -> int:
        """Code points of the text."""
        return len(self._whole) - len(self._prompt)

    @property
    def tokens(self) -> list[int]:
        """Ids of prompt and text, without the end token. A new list."""
        return self._committed + self._encoded_tail()

    @property
    def num_tokens(self) -> int:
        return len(self._committed) + len(self._encoded_tail())

    @property
    def unsettled(self) -> int:
        """Characters at the end that each change encodes again: few, but for a run that has no safe split."""
        return len(self._whole) - self._tail

    @property
    def num_stable(self) -> int:
        """How many of the tokens no append can change."""
        return len(self._committed)

    @property
    def unstable(self) -> list[int]:
        """The tokens after those. Not to be changed."""
        return self._encoded_tail()

    def append(self, text: str, max_tokens: int | None = None) -> None:
        """Adds text at the end. Errors as in `replace`."""
        self.replace(self.length, self.length, text, max_tokens)

    def set(self, text: str, max_tokens: int | None = None) -> None:
        """Makes `text` the whole text; what it begins alike is not encoded again. Errors as in `replace`."""
        old = self.text
        same = common_prefix(old, text)
        self.replace(same, len(old), text[same:], max_tokens)

    def replace(self, start: int, end: int, text: str, max_tokens: int | None = None) -> None:
        """Puts `text` in the place of characters `[start, end)`.

        Raises:
            InvalidRequest: a lone surrogate, or not 0 <= start <= end <= length. Nothing is changed.
            TooLarge: there would be more than `max_tokens` tokens. Nothing is changed.
        """
        check_text(text)
        if not 0 <= start <= end <= self.length:
            raise InvalidRequest(f"range [{start}, {end}) is not within the text's {self.length} characters")
        offset = len(self._prompt)
        before = self._cut(start + offset)
        whole = self._change(start + offset, text + before.text[end + offset :], max_tokens)
        if max_tokens is not None and self.num_tokens > max_tokens:
            count = f"{self.num_tokens:,}" if whole else "more"
            self._restore(before)
            raise TooLarge(f"the text would have {count} tokens; the limit is {max_tokens:,}", "text")

    def fork(self) -> "IncrementalTokenizer":
        """An independent copy."""
        twin = object.__new__(IncrementalTokenizer)
        twin.__dict__.update(self.__dict__)
        twin._committed = self._committed.copy()
        twin._checkpoints = self._checkpoints.copy()
        return twin

    def _cut(self, place: int) -> _State:
        """Forgets what an edit at `place` may change; returns what `_restore` needs."""
        kept = len(self._checkpoints)
        tail, known = self._tail, self._known
        if place < len(self._whole):
            while self._checkpoints[kept - 1].needed > place:
                kept -= 1
            self._tail, self._known = self._checkpoints[kept - 1].place, 0
        count = self._checkpoints[kept - 1].tokens if place < len(self._whole) else len(self._committed)
        before = _State(self._whole, tail, known, kept, self._committed[count:], self._checkpoints[kept:], count)
        del self._committed[count:], self._checkpoints[kept:]
        return before

    def _restore(self, before: _State) -> None:
        self._whole, self._tail, self._known = before.text, before.tail, before.known
        self._committed[before.committed :] = before.cut
        self._checkpoints[before.checkpoints :] = before.cut_checkpoints
        self._tail_tokens = None

    def _change(self, place: int, text: str, max_tokens: int | None = None) -> bool:
        """Makes the text `whole[:place] + text`, committing what can be. Stops, and returns False, beyond the limit."""
        self._tail_tokens = None
        self._whole = self._whole[:place]
        if not self._splits.exact:
            self._whole += text
            return True
        for start in range(0, len(text), _PIECE):
            self._whole += text[start : start + _PIECE]
            self._commit()
            if max_tokens is not None and len(self._committed) > max_tokens:
                return False
        return True

    def _commit(self) -> None:
        tail = self._whole[self._tail :]
        cut, self._known = self._splits.find(tail, self._known)
        needed = cut + self._splits.look_ahead
        if not cut and len(tail) > _RUN:
            cut, needed = self._splits.find_ancestor(tail), len(tail)
        if not cut:
            return
        self._committed += self._splits.tokenizer.backend.encode(tail[:cut], add_special_tokens=False).ids
        if self._tail + cut >= self._checkpoints[-1].place + _CHECKPOINT:
            self._checkpoints.append(_Checkpoint(self._tail + cut, len(self._committed), self._tail + needed))
        self._tail += cut
        self._known = max(self._known - cut, 0)

    def _encoded_tail(self) -> list[int]:
        if self._tail_tokens is None:
            tail = self._whole[self._tail :]
            self._tail_tokens = self._splits.tokenizer.backend.encode(tail, add_special_tokens=False).ids
        return self._tail_tokens


def _begins_a_token(text: str, ordered: list[str]) -> bool:
    """Whether `text` is a proper prefix of a token; the empty text is."""
    after = bisect_right(ordered, text)
    return after < len(ordered) and ordered[after].startswith(text)


_OTHER_BPE = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


def _is_qwen_pipeline(definition: dict[str, Any]) -> bool:
    model, pre = definition["model"], definition.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers") or []
    return (
        (definition.get("normalizer") or {}).get("type") == "NFC"
        and len(steps) == 2
        and steps[0].get("type") == "Split"
        and steps[0].get("pattern") == {"Regex": QWEN_SPLIT}
        and steps[0].get("behavior") == "Isolated"
        and not steps[0].get("invert")
        and steps[1].get("type") == "ByteLevel"
        and not steps[1].get("add_prefix_space")
        and not steps[1].get("use_regex")
        and model.get("type") == "BPE"
        and not any(model.get(option) for option in _OTHER_BPE)
    )


def _are_separable(added: list[dict[str, Any]]) -> bool:
    """Whether no added token can overlap another or begin inside one, so that each is matched wherever it stands."""
    contents = [token["content"] for token in added]
    firsts = {content[:1] for content in contents}
    return all(
        content
        and not any(token.get(option) for option in ("normalized", "lstrip", "rstrip", "single_word"))
        and firsts.isdisjoint(content[1:])
        and not any(other != content and other.startswith(content) for other in contents)
        for token, content in zip(added, contents, strict=True)
    )


@functools.lru_cache(maxsize=1 << 16)
def _character_class(character: str) -> str:
    """L, N, R, S or P, as the tokenizer's own regex engine has it; empty for a character at which NFC may not be cut."""
    if not _is_normalization_boundary(character):
        return ""
    if character in "\r\n":
        return "R"
    for name, pattern in _CLASS_PATTERNS:
        if not pattern.pre_tokenize_str(character):
            return name
    return "P"


_CLASS_PATTERNS = tuple(
    (name, pre_tokenizers.Split(tokenizers.Regex(regex), behavior="removed"))
    for name, regex in (("L", r"\p{L}"), ("N", r"\p{N}"), ("S", r"\s"))
)


def _is_clean(left: str, right: str) -> bool:
    # Two empty classes make no pair; one class alone makes none either.
    return _character_class(left) + _character_class(right) in _CLEAN


def _is_letter(character: str) -> bool:
    return _character_class(character) == "L"


def _is_normalization_boundary(character: str) -> bool:
    """Whether NFC(x + character + y) == NFC(x) + NFC(character + y) for all x and y (UAX #15), and NFC leaves it alone.

    Conservative: characters that this Python does not know are none, and Unicode's stability policy keeps the others.
    """
    return (
        unicodedata.combining(character) == 0
        and unicodedata.category(character) != "Cn"
        and unicodedata.is_normalized("NFC", character)
        and not _is_second_of_a_composite(ord(character))
    )


def _is_second_of_a_composite(code: int) -> bool:
    if 0x1161 <= code <= 0x1175 or 0x11A8 <= code <= 0x11C2:  # Hangul vowels and finals, composed by rule
        return True
    seconds = _composite_seconds()
    at = bisect_left(seconds, code)
    return at < len(seconds) and seconds[at] == code


@functools.cache
def _composite_seconds() -> list[int]:
    """Second halves of all canonical decompositions. A tenth of a second once, and never out of date."""
    seconds: set[int] = set()
    for code in range(0x30000):
        decomposition = unicodedata.decomposition(chr(code))
        if decomposition and decomposition[0] != "<":
            seconds.update(int(part, 16) for part in decomposition.split()[1:])
    return sorted(seconds)
