"""What positions in a text count: code points, or the UTF-16 or UTF-8 units that a client's strings are made of."""

from __future__ import annotations

from typing import Literal

from streambed.errors import InvalidRequest

OffsetUnit = Literal["codepoint", "utf16", "utf8"]


def count(text: str, unit: OffsetUnit) -> int:
    """Length of a text in a unit."""
    match unit:
        case "utf16" if not text.isascii():
            return len(text.encode("utf-16-le")) // 2
        case "utf8" if not text.isascii():
            return len(text.encode())
    return len(text)


def codepoints(text: str, position: int, unit: OffsetUnit, name: str) -> int:
    """Code points of `text` before a position in a unit, which lies within it.

    Raises InvalidRequest, with `name` as what is wrong, for a position inside a character.
    """
    if unit == "codepoint" or text.isascii():
        return position
    encoding, width = ("utf-16-le", 2) if unit == "utf16" else ("utf-8", 1)
    try:
        return len(text.encode(encoding)[: position * width].decode(encoding))
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name} is {position}, which is inside a character in {unit}", name) from None
