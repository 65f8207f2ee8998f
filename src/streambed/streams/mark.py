"""Where a text stands."""

from dataclasses import dataclass, replace
from typing import Self

from streambed.text.units import OffsetUnit, count


@dataclass(frozen=True)
class Mark:
    """A place in the life of a text. Positions are in the holder's unit: code points in the store, elsewhere the session's
    own unit."""

    revision: int = 0
    """Changes so far."""
    offset: int = 0
    """Length of the text."""
    start: int = 0
    """Where the segment that grows begins: 0 unless the text has outgrown the window."""
    segment: int = 0
    """Its number."""
    edited: bool = False
    """Whether the text was ever changed other than at its end."""

    def counted(self, text: str, unit: OffsetUnit) -> Self:
        """The same place, of code points, in another unit."""
        return replace(self, offset=count(text, unit), start=count(text[: self.start], unit))
