"""What positions in a text count: code points, or the UTF-16 or UTF-8 units that a client's strings are made of."""

from collections.abc import Sequence
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


def codepoints(text: str, positions: Sequence[int], unit: OffsetUnit, name: str) -> list[int]:
    """Code points of `text` before each of `positions`, which rise and lie within it in a unit. One pass.

    Raises InvalidRequest, with `name` as what is wrong, for a position inside a character.
    """
    if unit == "codepoint" or text.isascii():
        return list(positions)
    encoding, width = ("utf-16-le", 2) if unit == "utf16" else ("utf-8", 1)
    raw, before, found = text.encode(encoding), 0, 0
    places = []
    for position in positions:
        try:
            found += len(raw[before * width : position * width].decode(encoding))
        except UnicodeDecodeError:
            raise InvalidRequest(f"{name} is {position}, which is inside a character in {unit}", name) from None
        before = position
        places.append(found)
    return places
