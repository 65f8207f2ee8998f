"""How much structure JSON has, counted before it is parsed: what a parser makes of a byte can be a hundred times as large.

Only strings have to be understood for that, so the bytes are counted by a few calls that each take microseconds.
"""

from streambed.errors import InvalidRequest
from streambed.limits import MAX_DEPTH, MAX_ITEMS, MAX_KEYS

PIECE = 32 << 10
"""Bytes that are looked at in one go."""
_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))


class Structure:
    """Counts keys, items and depth of one JSON text, in whatever pieces its bytes come."""

    def __init__(self, what: str = "the body") -> None:
        self._what = what
        self._in_string = False
        self._rest = b""  # a backslash at the end of a piece, whose character is still to come
        self._keys = self._items = self._depth = 0

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest where there is more than any request has."""
        for at in range(0, len(data), PIECE):
            self._count(data[at : at + PIECE])

    def _count(self, piece: bytes) -> None:
        piece = self._rest + piece
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece, self._rest = piece[:-1], piece[-1:]
        else:
            self._rest = b""
        # Without escapes, every quote begins or ends a string.
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self._keys += outside.count(b":")
        # Each item but a list's first has a comma before it; a string counts, too, as it may be one alone.
        self._items += outside.count(b",") + outside.count(b"[") + len(parts) // 2
        self._follow(outside.translate(None, _NO_BRACKETS))
        for found, most, name in (
            (self._keys, MAX_KEYS, "keys"),
            (self._items, MAX_ITEMS, "items"),
            (self._depth, MAX_DEPTH, "levels of nesting"),
        ):
            if found > most:
                raise InvalidRequest(f"{self._what} has more than {most:,} {name}")

    def _follow(self, brackets: bytes) -> None:
        """How deep it stands after these. Where a list begins in one piece and ends in another, up to twice the limit
        passes: what matters is that there is one."""
        for _ in range(MAX_DEPTH):  # each time takes away the innermost level
            fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(fewer) == len(brackets):
                ups = brackets.count(b"]") + brackets.count(b"}")
                self._depth = max(self._depth - ups, 0) + len(brackets) - ups
                return
            brackets = fewer
        self._depth += MAX_DEPTH + 1


def check_structure(text: str, what: str) -> None:
    """Raises InvalidRequest where a JSON text has more structure than any event or request."""
    Structure(what).feed(text.encode("utf-8", "surrogatepass"))
