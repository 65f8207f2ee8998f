"""Checks of the arguments that engine and clients take beside texts."""

import operator
import reprlib
from collections.abc import Iterable, Sequence
from typing import Literal

from streambed.errors import InvalidRequest


def check_choice(name: str, value: object, choices: Sequence[str | None]) -> None:
    """Raises InvalidRequest unless `value` is one of these words; None is a choice where it is among them."""
    if isinstance(value, str | None) and value in choices:
        return
    words = [repr(choice) for choice in choices if choice is not None]
    expected = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    raise InvalidRequest(f"{name} is {reprlib.repr(value)}; {expected} is expected", name)


def as_integer(name: str, value: object, least: int | None = 1) -> int:
    """The number as an int, NumPy's too. Raises InvalidRequest for what is none, or less than `least` if there is one."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise InvalidRequest(f"{name} is {reprlib.repr(value)}; an integer{bound} is expected", name)
    return number


def as_offsets(offsets: Iterable[int]) -> list[int]:
    """Places in a text, of any iterable. Raises InvalidRequest unless each is an integer, 1 or more."""
    try:
        items = None if isinstance(offsets, str | bytes) else list(offsets)
    except TypeError:
        items = None
    if items is None:
        raise InvalidRequest(f"offsets is {describe(offsets)}; a list of integers is expected", "offsets")
    return [as_integer(f"offsets[{index}]", offset) for index, offset in enumerate(items)]


def as_every(every: object) -> Literal["sentence"] | int:
    """`sentence`, or a number of tokens. Raises InvalidRequest for anything else."""
    if isinstance(every, str) and every == "sentence":
        return "sentence"
    try:
        return as_integer("every", every)
    except InvalidRequest:
        message = f"every is {reprlib.repr(every)}; 'sentence' or a number of tokens, at least 1, is expected"
        raise InvalidRequest(message, "every") from None


def describe(value: object) -> str:
    """A wrong value in an error message: `None`, or the name of its type."""
    return "None" if value is None else type(value).__name__
