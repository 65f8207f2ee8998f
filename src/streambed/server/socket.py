"""`WebSocket /v1/embeddings`: streams as JSON text frames (docs/protocol.md)."""

import asyncio
import itertools
import logging
import time
from collections import Counter, OrderedDict
from typing import Any, get_args

from starlette.websockets import WebSocket, WebSocketDisconnect

from streambed.errors import Internal, InvalidRequest, NotFound, NotReady, Overloaded, RequestError, Unauthorized
from streambed.limits import MAX_EVENT_ID, MAX_UNSENT, STALL_SECONDS
from streambed.server.keyring import Key, Keyring
from streambed.server.marks import Marks
from streambed.server.metrics import OTHER
from streambed.server.pace import Pace
from streambed.server.replies import refuse
from streambed.server.subprotocol import chosen
from streambed.settings import Settings
from streambed.streams.observer import Observer
from streambed.streams.protocol import Protocol
from streambed.streams.registry import Registry
from streambed.streams.stream import HostedStream
from streambed.wire import (
    CLIENT_EVENTS,
    ClientEvent,
    EmbeddingCreate,
    ErrorEvent,
    InputText,
    Leaving,
    ServerEvent,
    SessionClose,
    SessionClosed,
    SessionCreate,
    SessionCreated,
    SessionFork,
    SessionOptions,
    SessionResume,
    SessionResumed,
    SessionUpdate,
    dump,
    error_event,
    parse_event,
    parse_object,
)
from streambed.wire.structure import check_structure

logger = logging.getLogger("streambed")

_FAREWELL_SECONDS = 2.0
_CHANGES = tuple(kind for kind, event in CLIENT_EVENTS.items() if event in get_args(InputText))
_AT_ONCE = (
    OTHER,
    "session.update",
    "embedding.create",
    *_CHANGES,
)
"""What is handled without a wait in between, so that the time it takes is the loop's: these events, and what is none."""


Place = tuple[str | None, str | int | None]
"""A slot and the session, or no slot and a number."""


class Outbox:
    """What a socket has to send, in order. Of events with a slot the newest replaces the one before."""

    def __init__(self) -> None:
        self._events: OrderedDict[Place, ServerEvent] = OrderedDict()
        self._numbers = itertools.count()
        self._filled = asyncio.Event()
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, event: ServerEvent, slot: str | None) -> None:
        place: Place = (slot, event.session if slot is not None else next(self._numbers))
        self._events.pop(place, None)
        self._events[place] = event
        self._filled.set()
        self._empty.clear()
        if len(self._events) >= MAX_UNSENT:
            self._roomy.clear()

    async def take(self) -> tuple[str | None, ServerEvent]:
        """The next event to send, and its slot."""
        await self._filled.wait()
        (slot, _), event = self._events.popitem(last=False)
        if not self._events:
            self._filled.clear()
        if len(self._events) < MAX_UNSENT:
            self._roomy.set()
        return slot, event

    def sent(self) -> None:
        """Marks the event that was taken as sent."""
        if not self._events:
            self._empty.set()

    async def room(self) -> None:
        """Waits while too much is unsent."""
        await self._roomy.wait()

    async def flush(self) -> None:
        """Waits until everything is sent."""
        await self._empty.wait()


class Socket:
    """One client's socket and the sessions that it holds. The `Peer` of their state machines."""

    def __init__(
        self, websocket: WebSocket, registry: Registry, settings: Settings, observer: Observer, pace: Pace
    ) -> None:
        self._websocket = websocket
        self._pace = pace
        self._observer = observer
        self._registry = registry
        self._settings = settings
        self.key: Key = websocket.state.key
        self._owner = self.key.owner
        self._streams: dict[str, HostedStream] = {}
        """Sessions that it holds; some may have been taken by another socket meanwhile."""
        self._outbox = Outbox()
        self._errors = 0
        """That were queued; those that were sent are marked by their numbers."""
        self._marks: Marks | None = getattr(websocket.state, "marks", None)
        self._messages = 0
        self._leaving: asyncio.Future[tuple[Leaving, int]]
        self._leaving = asyncio.get_running_loop().create_future()

    def send(self, event: ServerEvent, slot: str | None = None) -> None:
        """Queues an event. Never waits."""
        if isinstance(event, ErrorEvent):
            self._errors += 1
        if isinstance(event, SessionClosed) and event.session not in self._held():
            self._streams.pop(event.session or "", None)
        self._outbox.put(event, slot)

    def abort(self) -> None:
        """Drops the connection, whatever is unsent."""
        self._websocket.state.abort()

    def _held(self) -> dict[str, HostedStream]:
        return {id: stream for id, stream in self._streams.items() if stream.holder is self}

    def leave(self, reason: Leaving, code: int) -> None:
        """Sends `session.closed` for each session, then closes."""
        if not self._leaving.done():
            self._leaving.set_result((reason, code))

    async def serve(self) -> None:
        """Runs until the client or the server ends it."""
        await self._websocket.accept(chosen(self._websocket.scope))
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write())
        tasks: set[asyncio.Future[Any]] = {reading, writing, self._leaving}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._leaving.done() and not writing.done():
                reading.cancel()
                await self._say_farewell(*self._leaving.result())
            for task in (reading, writing):
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    raise error
        except WebSocketDisconnect:
            pass
        except TimeoutError:
            self.abort()  # it does not read, so it would not read `session.closed` either
        finally:
            for stream in list(self._streams.values()):
                stream.detach(self)
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def _say_farewell(self, reason: Leaving, code: int) -> None:
        for stream in self._held().values():
            stream.detach(self)
            self.send(stream.farewell(reason))
        async with asyncio.timeout(_FAREWELL_SECONDS):
            await self._outbox.flush()
            await self._websocket.close(code, f"{reason}; sessions can be resumed")

    async def _read(self) -> None:
        born = time.monotonic()
        while True:
            await self._outbox.room()
            left = born + self._settings.socket_life - time.monotonic()
            try:
                async with asyncio.timeout(max(min(left, self._settings.socket_idle), 0)):
                    message = await self._websocket.receive()
            except TimeoutError:
                self.leave("lifetime" if left <= self._settings.socket_idle else "idle", 1001)
                return
            if message["type"] == "websocket.disconnect":
                return
            self._messages += 1
            # Where another server than ours carries the socket, nobody knows, and what was queued counts as received.
            if self._marks is not None:
                for number in self._marks.passed(self._messages):
                    self._hear(number)
            elif self._errors:
                self._hear(self._errors)
            seconds = await self._receive(message.get("text"))
            # Hundreds of frames may have come in one piece: lets others run, for as long as this has taken.
            await asyncio.sleep(self._pace.spend(self._owner, seconds))

    def _hear(self, number: int) -> None:
        """The client had received so many errors when it sent what comes now."""

        def heard(protocol: Protocol) -> None:
            if number == self._errors:  # else it is about to hear of another one
                protocol.heard(self)

        for stream in self._held().values():
            stream.in_turn(self, heard)

    async def _receive(self, text: str | None) -> float:
        """Returns the seconds that it has taken of the loop."""
        started = time.monotonic()
        session = event_id = value = None
        kind, is_change = OTHER, False
        try:
            if text is None:
                raise InvalidRequest("events are text frames; this was a binary one")
            check_structure(text, "the frame")
            value = parse_object(text, "the frame")
            event_id = _short(value.get("event_id"), MAX_EVENT_ID)
            session = _short(value.get("session"), 64)
            is_change = value.get("type") in _CHANGES
            event = parse_event(value, [] if self._settings.ignore_unknown_fields else None)
            kind = event.type
            await self._handle(event)
            if not isinstance(event, InputText | EmbeddingCreate | SessionUpdate):  # those are counted when they run
                self._observer.event(kind, "ok")
        except Exception as error:
            if not isinstance(error, RequestError):
                logger.error("an event failed for a reason of our own: %s", type(error).__name__, exc_info=error)
                error = Internal("the server failed on this event; its log says why")
            self._observer.event(kind, error.outcome)
            self.send(error_event(error, session, event_id))
            if value is None or is_change:  # what cannot be read may have been a change of any of them
                for id, held in self._held().items():
                    if value is None or id == session:
                        held.in_turn(self, lambda protocol: protocol.refused(self))
        seconds = time.monotonic() - started if kind in _AT_ONCE else 0.0
        if (waiting := self._streams.get(session or "")) is not None:
            await waiting.room()
        return seconds

    async def _handle(self, event: ClientEvent) -> None:
        registry = self._registry
        if isinstance(event, SessionCreate):
            self._check_room()
            options = SessionOptions.model_construct(
                **{name: getattr(event, name) for name in SessionOptions.model_fields}
            )
            stream = await registry.create(self._owner, options)
            self._take(stream, event.event_id, SessionCreated)
            return
        if isinstance(event, SessionResume):
            stream = registry.find_for_resume(self._owner, event.session, event.resume_token)
            if stream.holder is not self:
                self._check_room()
            await stream.open()
            self._take(stream, event.event_id, SessionResumed)
            return
        held = self._streams.get(event.session)
        if held is None or held.holder is not self:
            raise NotFound("this socket does not hold that session; create or resume it first", "session")
        match event:
            case SessionFork():
                self._check_room()
                self._take(await registry.fork(held), event.event_id, SessionCreated, forked_from=held.id)
            case SessionClose():
                await registry.close(held, self, event.event_id)
            case _:
                held.receive(event, self)

    def _take(
        self, stream: HostedStream, event_id: str | None, kind: type[SessionCreated | SessionResumed], **more: Any
    ) -> None:
        self._streams[stream.id] = stream
        stream.attach(self, event_id, kind, **more)

    def _check_room(self) -> None:
        most = self._settings.max_sessions_per_socket
        if len(self._held()) >= most:
            raise Overloaded(f"{most} sessions are on this socket, which is the limit; open another socket")

    async def _write(self) -> None:
        """Raises TimeoutError where the client takes nothing any more."""
        sent = 0
        while True:
            slot, event = await self._outbox.take()
            message: dict[str, Any] = {"type": "websocket.send", "text": dump(event).decode()}
            if isinstance(event, ErrorEvent):
                message["mark"] = sent = sent + 1
            async with asyncio.timeout(STALL_SECONDS):
                await self._websocket.send(message)
            self._outbox.sent()
            if slot is not None and (stream := self._streams.get(event.session or "")) is not None:
                stream.sent(self, slot, event)


class Sockets:
    """All sockets of a server."""

    def __init__(self, registry: Registry, settings: Settings, observer: Observer, pace: Pace) -> None:
        self._registry = registry
        self._pace = pace
        self._settings = settings
        self._observer = observer
        self._open: set[Socket] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def by_owner(self) -> Counter[str]:
        """How many there are of each owner. From any thread."""
        return Counter(socket.key.owner for socket in list(self._open))

    async def serve(self, websocket: WebSocket) -> None:
        """The route's endpoint."""
        if self._draining:
            await refuse(NotReady("the server is shutting down"), websocket.scope, websocket.receive, websocket.send)
            return
        socket = Socket(websocket, self._registry, self._settings, self._observer, self._pace)
        self._open.add(socket)
        try:
            await socket.serve()
        finally:
            self._open.discard(socket)

    def dismiss(self, keyring: Keyring) -> None:
        """Closes those whose keys are no longer valid."""
        for socket in self._open:
            if keyring.present(socket.key) is None:
                socket.leave("unauthorized", Unauthorized.close_code or 1008)

    async def drain(self) -> None:
        """Closes all sockets; their clients hear where to resume."""
        self._draining = True
        for socket in self._open:
            socket.leave("draining", NotReady.close_code or 1012)
        while self._open:  # each has a limit to its farewell
            await asyncio.sleep(0.01)


def _short(value: Any, most: int) -> str | None:
    return value if isinstance(value, str) and len(value) <= most else None
