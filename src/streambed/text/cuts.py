"""Places in a text whose beginnings are embedded, and the tokens of each beginning."""

from collections.abc import Sequence
from typing import NamedTuple

from streambed.errors import InvalidRequest, TooLarge
from streambed.text.incremental import IncrementalTokenizer, Splits

_MAX_TAILS = 1 << 20
"""Most tokens, over all beginnings of one text, that are not tokens of the whole text."""


class Cut(NamedTuple):
    """The first `offset` characters of a text. Their tokens are the first `shared` ones of the whole text, then `tail`."""

    offset: int
    shared: int
    tail: list[int]

    @property
    def num_tokens(self) -> int:
        return self.shared + len(self.tail)


def token_ends(splits: Splits, text: str, every: int) -> list[int]:
    """Offsets after each `every` tokens of the text, ascending, its own end last. Raises InvalidRequest."""
    if every < 1:
        raise InvalidRequest(f"every is {every}; at least 1 is expected", "every")
    encoding = splits.tokenizer.backend.encode(text, add_special_tokens=False)
    ends = [end for _, end in encoding.offsets[every - 1 :: every]]
    # Tokens of one character all end where it ends.
    return sorted({*(end for end in ends if 0 < end < len(text)), len(text)}) if text else []


def check_offsets(offsets: Sequence[int], length: int) -> None:
    """Raises InvalidRequest unless `offsets` rise strictly within 1..length."""
    before = 0
    for index, offset in enumerate(offsets):
        if not before < offset <= length:
            raise InvalidRequest(
                f"offsets must rise, within 1 and the text's {length:,} characters; offsets[{index}] is {offset}",
                "offsets",
            )
        before = offset


def cut(splits: Splits, prompt: str, text: str, offsets: Sequence[int], max_tokens: int) -> tuple[list[int], list[Cut]]:
    """The tokens of prompt and text up to the last offset, and each beginning in their terms; one pass over the text.

    offsets: as `check_offsets` has them. Raises InvalidRequest for a lone surrogate, TooLarge beyond `max_tokens`.
    """
    tokenizer = IncrementalTokenizer(splits, prompt)
    found: list[tuple[int, int, list[int]]] = []
    before = tails = 0
    for offset in offsets:
        tokenizer.append(text[before:offset], max_tokens)
        before = offset
        tail = tokenizer.unstable
        found.append((offset, tokenizer.num_stable, tail))
        tails += len(tail)
        if tails > _MAX_TAILS:
            raise TooLarge("the text has long runs without a safe split; ask for fewer places", "text")
    ids = tokenizer.tokens
    cuts = []
    for offset, stable, tail in found:
        same = 0
        while same < len(tail) and stable + same < len(ids) and tail[same] == ids[stable + same]:
            same += 1
        cuts.append(Cut(offset, stable + same, tail[same:]))
    return ids, cuts
