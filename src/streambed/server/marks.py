"""Which of a client's messages it sent after it had received something of ours.

A ping goes right before it. Clients answer pings in the order in which they read, so the pong comes before whatever they
send because of it, and behind what they had sent before (RFC 6455, 5.5.2 and 5.5.3).
"""

import itertools
from collections import deque
from typing import Any

_MOST = 1024
"""Pings that a client may leave unanswered; it may answer the last one for all."""


class Marks:
    """Of one WebSocket."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._sent: deque[tuple[bytes, Any]] = deque(maxlen=_MOST)
        self._passed: deque[tuple[int, Any]] = deque()

    def set(self, value: Any) -> bytes:
        """What to send in a ping, before what the value stands for."""
        payload = next(self._numbers).to_bytes(8, "big")
        self._sent.append((payload, value))
        return payload

    def pong(self, payload: bytes, messages: int) -> bool:
        """A pong came, behind so many messages. Whether it answers a ping of a mark."""
        if not any(sent == payload for sent, _ in self._sent):
            return False
        while self._sent:
            sent, value = self._sent.popleft()
            self._passed.append((messages, value))
            if sent == payload:
                break
        return True

    def passed(self, message: int) -> list[Any]:
        """What the client had received when it sent this message, counted from 1; each is told once."""
        values = []
        while self._passed and self._passed[0][0] < message:
            values.append(self._passed.popleft()[1])
        return values
