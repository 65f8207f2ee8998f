"""One session on this server: its mailbox, its state machine, and what carries the machine's effects out."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, TypeVar

from streambed.engine.sequence import Embedding
from streambed.engine.session import Session
from streambed.errors import Internal, NotFound, Overloaded, RequestError, StorageFull
from streambed.limits import MAX_WAITING
from streambed.streams.effects import EMISSION, Count, Effect, Peer, Probe, Report, Resolve, Send, Write, refusal
from streambed.streams.host import Host
from streambed.streams.limits import Credit
from streambed.streams.mailbox import Mailbox, Message, settle, tell
from streambed.streams.mark import Mark
from streambed.streams.protocol import Protocol, Received, State
from streambed.streams.store.store import Erase, Open, Saved
from streambed.streams.triggers import Target
from streambed.wire import (
    EmbeddingDone,
    EmbeddingSkipped,
    InputText,
    InputTextReplace,
    Leaving,
    ServerEvent,
    SessionClosed,
    SessionCreated,
    SessionOptions,
    SessionReport,
    SessionResumed,
)

logger = logging.getLogger(__name__)

LARGE = 4096
"""Characters to tokenise beyond which a change is applied in a thread: about a millisecond."""

Kind = TypeVar("Kind", bound=SessionReport)


class HostedStream:
    """A session with its id and its owner. Opened when it is first used; until then it is text alone."""

    def __init__(self, host: Host, saved: Saved, token: str | None = None) -> None:
        self._host = host
        self._saved = saved
        self._options = SessionOptions.model_validate_json(saved.options)
        self._session: Session | None = None
        self._protocol: Protocol | None = None
        self._credit = Credit(host.limits.credit)
        self._mailbox = Mailbox(functools.partial(host.workers.run, saved.owner), self._credit, self._flush)
        self._refusals: list[Effect] = []
        """For events that never reach the machine."""
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._ended = asyncio.Event()
        self.holder: Peer | None = None
        """The socket that attached last. The machine hears of it when the message's turn comes."""
        self.token = token
        """The resume token; None after a restart, until the client shows it."""
        self.touched = time.monotonic()
        """When a client last used it."""

    @property
    def id(self) -> str:
        return self._saved.id

    @property
    def owner(self) -> str:
        return self._saved.owner

    @property
    def token_digest(self) -> bytes:
        return self._saved.token

    @property
    def is_warm(self) -> bool:
        """Whether KV of its text is there."""
        return self._session is not None and self._session.is_warm

    @property
    def expired(self) -> bool:
        return self.holder is None and time.monotonic() >= self.touched + self._host.ttl

    # What clients do

    async def open(self) -> None:
        """Loads its text into the engine, if that is not done. Raises what a text of its length may raise."""
        if self._protocol is None:
            await self._mailbox.call(self._open, is_long=True)

    def receive(self, event: Received, peer: Peer, timeout: float | None = None) -> None:
        """Takes an event, whose answers go to `peer`; an embedding may take `timeout` seconds. Raises a RequestError where
        it is refused at once; the machine is to hear of that, if it was a change."""
        self._check_open()
        self.touched = time.monotonic()
        size = len(event.text) if isinstance(event, InputText) else 0
        self._credit.check(size)
        if len(self._mailbox) >= MAX_WAITING:
            raise Overloaded(f"{len(self._mailbox)} events of this session wait already")
        deadline = self.touched + (timeout or self._host.timeout)
        run = functools.partial(self._receive, event, peer, deadline)
        self._mailbox.post(Message(run, functools.partial(self._is_long, event, size), True, peer, size))

    def in_turn(self, peer: Peer, work: Callable[[Protocol], None]) -> None:
        """Has the machine told something when it has taken all that this client sent before. Nothing if it is not open."""
        run = lambda: None if self._protocol is None else work(self._protocol)  # noqa: E731
        self._mailbox.post(Message(run, is_event=True, peer=peer))

    async def room(self) -> None:
        """Waits while more changes could not be taken."""
        await self._mailbox.room()

    def attach(
        self, peer: Peer, event_id: str | None, kind: type[SessionCreated | SessionResumed], **more: Any
    ) -> None:
        """A socket attaches and is told the state; what the one before had queued is dropped. Call `open` first."""
        self._check_open()
        if self.holder is not None and self.holder is not peer:
            self._mailbox.drop(self.holder)
        self.holder, self.touched = peer, time.monotonic()
        self._mailbox.post(Message(lambda: self._opened().attach(peer, event_id, kind, more, time.monotonic())))

    def detach(self, peer: Peer) -> None:
        """A socket has gone, or lets it go."""
        self._mailbox.drop(peer)
        if self.holder is peer:
            self.holder = None
        self._mailbox.post(Message(lambda: self._detach(peer)))

    def sent(self, peer: Peer, slot: str, event: ServerEvent) -> None:
        """A socket has taken something that it had to send, and that had a slot."""
        ended = event.segment if isinstance(event, EmbeddingDone) and event.final else None
        if slot == EMISSION or ended is not None:
            self._mailbox.post(Message(lambda: self._opened().sent(peer, time.monotonic(), ended)))

    async def close(
        self, reason: Literal["closed", "expired"], peer: Peer | None = None, event_id: str | None = None
    ) -> None:
        """Ends it. Its text is erased before anybody is told; if the store cannot be written, as soon as it can."""
        self._check_open()
        self._closing, self.holder = True, None

        def work() -> None:
            if self._protocol is not None:
                self._protocol.close(reason, peer, event_id)
            else:
                self._erase()

        await self._mailbox.call(work, is_event=True)
        await self._ended.wait()
        if self._protocol is None and peer is not None:
            peer.send(SessionClosed(session=self.id, event_id=event_id, reason=reason))

    async def fork(self, id: str, token: str, token_digest: bytes) -> "HostedStream":
        """A new stream with the same text, its KV copied rather than computed. Not in the store yet."""
        self._check_open()

        def work() -> HostedStream:
            options, session = self._opened().fork(), self._session
            assert session is not None
            twin = session.fork()
            stream = HostedStream(self._host, Saved(id, self.owner, token_digest, options.to_json(), twin.text), token)
            stream._begin(twin)
            return stream

        return await self._mailbox.call(work, is_event=True)

    def release(self) -> None:
        """Frees what it holds, where it was never used."""
        self._closing = True
        if self._session is not None:
            self._session.close()
        self._erase()

    async def save(self) -> None:
        """Puts it into the store as it is. Raises StorageFull."""
        store, session, loop = self._host.store, self._session, asyncio.get_running_loop()
        if store is None:
            return
        assert session is not None
        mark = Mark(0, session.offset, session.start, session.segment)
        written: asyncio.Future[None] = loop.create_future()
        entry = Open(replace(self._saved, text=session.text, mark=mark))
        store.submit(entry, lambda error: tell(loop, settle, written, None, error))
        await written

    # Its state

    def state(self) -> dict[str, Any]:
        """For `GET /v1/sessions`."""
        protocol, saved = self._protocol, self._saved  # without waiting: a thread may be running the machine
        is_held = self.holder is not None
        left = self._host.ttl if is_held else self.touched + self._host.ttl - time.monotonic()
        mark = protocol.acknowledged if protocol else saved.mark.counted(saved.text, self._options.offset_unit)
        place = {} if self._options.overflow == "error" else {"segment": mark.segment, "start": mark.start}
        return {
            "session": self.id,
            "object": "session",
            "revision": mark.revision,
            "offset": mark.offset,
            "kv": "warm" if self.is_warm else "cold",
            **place,
            "attached": is_held,
            "expires_in_s": round(max(left, 0.0), 1),
        }

    def report(self, kind: type[Kind], event_id: str | None = None, **more: Any) -> Kind:
        """The session's state, as an event."""
        protocol, limits = self._opened(), self._host.limits_of(self._options)
        reducer = protocol.form.reducer
        assert self.token is not None
        return kind(
            session=self.id,
            event_id=event_id,
            resume_token=self.token,
            revision=protocol.acknowledged.revision,
            offset=protocol.acknowledged.offset,
            kv="warm" if self.is_warm else "cold",
            credit=self._credit.left,
            limits=limits.told,
            dimensions=protocol.form.dimensions,
            overflow=protocol.options.overflow,
            fingerprint=self._host.engine.info.fingerprint if reducer is None else reducer.fingerprint,
            expires_in_s=self._host.ttl,
            **protocol.changes.place,
            **more,
        )

    def farewell(self, reason: Leaving) -> SessionClosed:
        """What a socket that is being closed is told of this session: where to resume it."""
        mark = self._opened().acknowledged
        resume = {"resume_token": self.token, "revision": mark.revision, "offset": mark.offset}
        if reason == "draining" and self._host.store is None:  # text does not outlive the process
            return SessionClosed(session=self.id, reason=reason)
        return SessionClosed(session=self.id, reason=reason, resume={**resume, "expires_in_s": self._host.ttl})

    # Work, run by the mailbox

    def _opened(self) -> Protocol:
        assert self._protocol is not None, "it is opened before it is used"
        return self._protocol

    def _check_open(self) -> None:
        if self._closing:
            raise NotFound("the session was closed", "session")

    def _is_long(self, event: Received, size: int) -> bool:
        """Whether an event is handled in a thread, since many characters are tokenised for it."""
        protocol, session = self._protocol, self._session
        if protocol is None or session is None:
            return True
        if not isinstance(event, InputText):
            return False
        behind = protocol.changes.now.offset - event.start if isinstance(event, InputTextReplace) else 0
        return size + max(behind, session.unsettled) > LARGE or protocol.changes.may_end_segment(size)

    def _receive(self, event: Received, peer: Peer, deadline: float) -> None:
        error: RequestError
        try:
            self._open()
            self._opened().receive(event, peer, time.monotonic(), deadline)
            return
        except RequestError as cause:  # it cannot be opened
            error = cause
        except Exception as cause:
            logger.error("a stream failed for a reason of our own: %s", type(cause).__name__, exc_info=cause)
            error = Internal("the server failed on this event; its log says why")
        self._refusals += refusal(self.id, peer, event.type, event.event_id, error)

    def _open(self) -> None:
        if self._protocol is None:
            self._begin(self._host.open(self._saved, self._options))

    def _begin(self, session: Session) -> None:
        saved = self._saved
        try:
            self._protocol = Protocol(
                self.id,
                session,
                self._options,
                self._host.form_of(self._options),  # checked when it was made, but perhaps with another model
                self._host.limits_of(self._options),
                self._credit,
                epoch=None if self._host.store is None else saved.epoch,
                history=(saved.mark.revision, saved.mark.edited, saved.digests),
                now=time.monotonic(),
            )
        except BaseException:
            session.close()
            raise
        self._session = session
        if self._closing:  # whoever wanted it has gone meanwhile
            session.close()
            raise NotFound("the session was closed", "session")
        self._saved = replace(saved, text="", digests=())  # they are in use now

    def _detach(self, peer: Peer) -> None:
        protocol = self._protocol
        if protocol is not None and protocol.emission.listener is peer:
            protocol.detach()
            self.touched = time.monotonic()

    # Effects

    def _flush(self) -> None:
        """Carries out what the machine wants, on the event loop."""
        refusals, self._refusals = self._refusals, []
        self._carry_out(refusals)
        protocol = self._protocol
        if protocol is None:
            return
        self._carry_out(protocol.take())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if protocol.state is State.CLOSED:
            self._ended.set()
        elif (wake_at := protocol.wake_at()) is not None:
            loop = asyncio.get_running_loop()
            tick = Message(lambda: self._opened().tick(time.monotonic()))
            self._timer = loop.call_later(max(wake_at - time.monotonic(), 0.001), self._mailbox.post, tick)

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        observer, loop = self._host.observer, asyncio.get_running_loop()
        for effect in effects:
            match effect:
                case Send(peer, event, slot):
                    peer.send(event, slot)
                    if isinstance(event, EmbeddingSkipped):
                        observer.skipped()
                case Report(peer, kind, event_id, more):
                    peer.send(self.report(kind, event_id, **more))
                case Count(event_kind, outcome):
                    observer.event(event_kind, outcome)
                case Probe():
                    effect.future.add_done_callback(functools.partial(self._answered, loop, effect))
                case Write():
                    self._write(effect)
                case Resolve(target):
                    task = loop.create_task(self._resolve(target))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    def _write(self, effect: Write) -> None:
        store, loop = self._host.store, asyncio.get_running_loop()
        assert store is not None
        if effect.alone:
            self._mailbox.pause()

        def written(error: StorageFull | None) -> None:
            # To take changes back is to tokenise the whole text.
            is_long = error is not None and not effect.alone
            work = functools.partial(self._written, effect, error)
            tell(loop, self._mailbox.post, Message(work, lambda: is_long))

        store.submit(effect.entry, written)

    def _written(self, effect: Write, error: StorageFull | None) -> None:
        self._opened().written(effect.entry, error, time.monotonic())
        if effect.alone:
            self._mailbox.resume()

    def _erase(self) -> None:
        """For a session that is only text so far."""
        store, loop = self._host.store, asyncio.get_running_loop()
        if store is None:
            self._ended.set()
        else:
            store.submit(Erase(self.id, self._saved.epoch), lambda error: tell(loop, self._ended.set))

    def _answered(self, loop: asyncio.AbstractEventLoop, probe: Probe, future: Future[Embedding]) -> None:
        if future.cancelled():
            return
        now, error = time.monotonic(), future.exception()
        result: Embedding | RequestError
        if error is None:
            result = future.result()
            seconds = now - (probe.asked if probe.due is None else probe.due)
            self._host.observer.probed(seconds, probe.tokens + 1, result.cached_tokens, result.computed_tokens)
        else:
            result = error if isinstance(error, RequestError) else Internal("computing this text failed")
        tell(loop, self._mailbox.post, Message(lambda: self._opened().probed(probe, result, time.monotonic())))

    async def _resolve(self, target: Target) -> None:
        protocol = self._opened()
        async with self._host.gates[self.owner]:
            if target.gone:
                return
            vector = await self._host.embed(target.watch, self.owner, protocol.form)
        self._mailbox.post(Message(lambda: protocol.resolved(target, vector)))
