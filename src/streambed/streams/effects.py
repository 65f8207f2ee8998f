"""What the state machine wants done, in the order in which it is to be done."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from streambed.errors import RequestError
from streambed.streams.mark import Mark
from streambed.streams.store.store import Entry
from streambed.streams.triggers import Target
from streambed.wire import ServerEvent, SessionReport, error_event

if TYPE_CHECKING:
    from streambed.engine.sequence import Embedding

EMISSION = "emission"
"""Slot of automatic embeddings."""


class Peer(Protocol):
    """Who asks, and hears the answers: a socket, or one request over HTTP. The machine only tells them apart."""

    def send(self, event: ServerEvent, slot: str | None = None) -> None:
        """Takes the event to the client, or keeps it until the client reads."""


@dataclass(frozen=True)
class Send:
    """To a peer. Of those with the same slot only the newest matters, if the peer is slow; when it has taken one of slot
    `EMISSION`, or a segment's last embedding, `sent` must be told."""

    peer: Peer
    event: ServerEvent
    slot: str | None = None


@dataclass(frozen=True)
class Report:
    """To a peer: how the session stands."""

    peer: Peer
    kind: type[SessionReport]
    event_id: str | None
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of the event."""


@dataclass(frozen=True)
class Write:
    """To the store; `written` must be told. Where nothing else of the session may happen until then, it is `alone`."""

    entry: Entry
    alone: bool = False


@dataclass(frozen=True)
class Count:
    """A client's event has come to its outcome: `ok`, `cancelled`, or how its error is counted."""

    kind: str
    outcome: str


def refusal(session: str, peer: Peer, kind: str, event_id: str | None, error: RequestError) -> list[Effect]:
    """What becomes of a client's event that ends in an error: it is counted, and its client hears why."""
    return [Count(kind, error.outcome), Send(peer, error_event(error, session, event_id))]


@dataclass(frozen=True)
class Resolve:
    """The text of a watch is to be embedded; its vector goes to `resolved`."""

    target: Target


@dataclass(eq=False)
class Probe:
    """A vector to wait for, and then to hand to `probed`."""

    future: Future[Embedding]
    mark: Mark
    """Of what: the text from `start` to `offset` at `revision`."""
    tokens: int
    asked: float
    peer: Peer | None = None
    """Who asked for it, or, of a segment's last one, who is being sent it; None for an automatic one."""
    event_id: str | None = None
    emitting: bool = False
    """Whether an automatic one is to be sent, or for the watches alone."""
    final: bool = False
    """Whether it is a segment's last."""
    due: float | None = None
    """Since when an automatic one was due by the session's rules."""
    result: Embedding | RequestError | None = None
    ended: float = 0.0


Effect = Send | Report | Write | Count | Resolve | Probe
