"""What a WebSocket may send in a second.

A message with content waits until the one before it is done, which is bound enough. Frames that carry nothing (pings, pongs,
pieces of a message, empty ones) are answered or joined at once, so they are what a client can flood with.
"""

from streambed.limits import FRAME_BURST, FRAMES_PER_SECOND, SOCKET_BURST, SOCKET_BYTES_PER_SECOND

PIECE = 4096
"""Bytes that are read before the budget is looked at again."""


class FrameBudget:
    """Two token buckets."""

    def __init__(self, now: float) -> None:
        self._frames, self._bytes = float(FRAME_BURST), float(SOCKET_BURST)
        self._filled = now

    def count(self, whole: bool = False) -> None:
        """A frame came. whole: it is a message, and not an empty one."""
        if not whole:
            self._frames -= 1

    def pay(self, size: int, now: float) -> bool:
        """So many bytes came. Whether that, and the frames in them, were within the budget."""
        seconds, self._filled = now - self._filled, now
        self._bytes = min(self._bytes + seconds * SOCKET_BYTES_PER_SECOND, SOCKET_BURST) - size
        within = self._frames >= 0 and self._bytes >= 0
        self._frames = min(self._frames + seconds * FRAMES_PER_SECOND, FRAME_BURST)
        return within
