"""Texts as callers give them, checked before any work. Without the tokenizer, so that a client can check them too."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from streambed.arguments import check_choice, describe
from streambed.errors import InvalidRequest

Empty = Literal["error", "null"]
"""What to do with empty texts: refuse them all, or leave their rows without numbers."""
_SHOWN = 5
"""Indexes that a message names; `details` has them all."""


def check_text(text: str, name: str = "text") -> None:
    """Raises InvalidRequest unless it is a string without lone surrogates, which are no characters and have no UTF-8."""
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} is {describe(text)}; a string is expected", name)
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} has a lone surrogate at character {error.start}", name) from None


def list_texts(texts: str | Iterable[str]) -> list[str]:
    """The texts of any iterable as plain strings; one string is one text.

    Raises:
        InvalidRequest: it is no iterable of texts, or names the first item that is no text.
    """
    if isinstance(texts, str):
        texts = [texts]
    # The parts of bytes are numbers, and what a mapping or a table gives first are its keys.
    if isinstance(texts, bytes | bytearray | memoryview | Mapping) or getattr(texts, "ndim", 1) != 1:
        raise InvalidRequest(f"texts is {describe(texts)}; a string or an iterable of strings is expected", "input")
    try:
        items = iter(texts)
    except TypeError:
        message = f"texts is {describe(texts)}; a string or an iterable of strings is expected"
        raise InvalidRequest(message, "input") from None
    listed = []
    for index, text in enumerate(items):
        if type(text) is not str or not text.isascii():
            try:
                check_text(text, f"texts[{index}]")
            except InvalidRequest as error:
                raise InvalidRequest(error.message, f"input[{index}]") from None
            text = str.__str__(text)  # NumPy's strings and members of enumerations, by their value
        listed.append(text)
    return listed


def find_texts(texts: Sequence[str], empty: Empty = "error") -> list[int]:
    """Indexes of the texts that are not empty.

    Raises:
        InvalidRequest: some are empty, and are to be refused; `details` is `{"indexes": [...]}` of all of them.
    """
    missing = [index for index, text in enumerate(texts) if not text]
    if not missing:
        return list(range(len(texts)))
    if empty == "error":
        names = [f"texts[{index}]" for index in missing[:_SHOWN]]
        if len(missing) > _SHOWN:
            names.append(f"{len(missing) - _SHOWN:,} more")
        shown = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
        verb, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        message = f"{shown} {verb} empty; leave {them} out, or give empty='null' for a row of NaN"
        error = InvalidRequest(message, f"input[{missing[0]}]")
        error.details = {"indexes": missing}
        raise error
    return [index for index, text in enumerate(texts) if text]


def check_ways(instruction: str | None, prompt_name: str | None, input_type: str | None) -> None:
    """Raises InvalidRequest for what no checkpoint's prompts can answer: two ways at once, or a wrong value."""
    given = {"instruction": instruction, "prompt_name": prompt_name, "input_type": input_type}
    used = [name for name, value in given.items() if value is not None]
    if len(used) > 1:
        raise InvalidRequest(f"{' and '.join(used)} exclude each other; give one of them", used[1])
    check_choice("input_type", input_type, (None, "query", "document"))
    for name in ("instruction", "prompt_name"):
        if (value := given[name]) is not None:
            check_text(value, name)


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """Length of the beginning that two texts, or two lists of tokens, share. Whole blocks are compared at once."""
    limit, block, at = min(len(a), len(b)), 512, 0
    while at < limit and a[at : at + block] == b[at : at + block]:
        at += block
    at = min(at, limit)
    while at < limit and a[at] == b[at]:
        at += 1
    return at
