"""One session on this server: the state machine, and what carries its effects out.

Work is done in the order in which it came, one at a time, on the event loop; what is long (a long text, a session to open)
is done in a thread, and what comes meanwhile waits behind it. So the machine and the session are never touched by two at
once; the queue itself belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar

from streambed.engine.engine import Engine
from streambed.engine.sequence import Embedding, Lane
from streambed.engine.session import Session
from streambed.errors import Internal, NotFound, Overloaded, RequestError, StorageFull
from streambed.streams.journal import Change as JournalChange
from streambed.streams.journal import Entry, Erase, Journal, Open, Options, Saved
from streambed.streams.observer import Observer
from streambed.streams.protocol import (
    EMISSION,
    HISTORY,
    MAX_UNACKED,
    START,
    Client,
    Commit,
    Limits,
    Probe,
    Protocol,
    Send,
    State,
    Window,
)
from streambed.streams.triggers import Target
from streambed.text.units import count
from streambed.vectors.reducers import Form, Reducers
from streambed.wire import (
    Change,
    EmbeddingCreate,
    EmbeddingDone,
    EmbeddingSkipped,
    Emit,
    InputTextReplace,
    ServerEvent,
    SessionClosed,
    SessionCreated,
    SessionOptions,
    SessionReport,
    SessionResumed,
    SessionUpdated,
    Watch,
    error_event,
)

logger = logging.getLogger(__name__)

LARGE = 4096
"""Characters to tokenise beyond which a change is applied in a thread: about a millisecond."""


Report = TypeVar("Report", bound=SessionReport)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Host:
    """What the streams of a server share."""

    engine: Engine
    reducers: Reducers
    journal: Journal | None
    pool: Executor
    limits: Limits
    max_segmented: int
    """Characters of a text that may outgrow the window."""
    timeout: float
    """Seconds after which an embedding that was asked for is given up."""
    ttl: float
    """Seconds that a session lives without a client."""
    observer: Observer


class _Work(NamedTuple):
    run: Callable[[], None]
    heavy: bool = False
    client: Client | None = None
    event_id: str | None = None
    size: int = 0
    """Characters of a change."""
    droppable: bool = False
    """Whether it goes with its client."""


class Stream:
    """A session with its id and its owner. Opened when it is first used; until then it is text alone."""

    def __init__(self, host: Host, saved: Saved, token: str | None = None) -> None:
        self._host = host
        self._saved = saved
        self._options = SessionOptions.model_validate_json(saved.options)
        self._session: Session | None = None
        self._protocol: Protocol | None = None
        self._work: deque[_Work] = deque()
        self._uncommitted: deque[tuple[int, str]] = deque()
        """Revision and type of changes whose outcome the journal decides."""
        self._queued = 0  # characters of changes that are not applied yet
        self._refusals: list[Send] = []
        self._busy: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.holder: Client | None = None
        """The socket that took it last; perhaps its turn is still to come."""
        self.token = token
        """The resume token; None after a restart, until the client shows it."""
        self.touched = time.monotonic()
        """When a client last had to do with it."""

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
    def is_attached(self) -> bool:
        return self._protocol is not None and self._protocol.state is State.ATTACHED

    @property
    def is_warm(self) -> bool:
        """Whether KV of its text is there."""
        return self._session is not None and self._session.is_warm

    @property
    def expired(self) -> bool:
        held = self.holder is not None or self.is_attached
        return not held and time.monotonic() >= self.touched + self._host.ttl

    # What clients do

    @property
    def limits(self) -> Limits:
        """What it may hold: a text that goes on in segments is not bound to what a window holds."""
        if self._options.overflow == "error":
            return self._host.limits
        return replace(self._host.limits, max_characters=self._host.max_segmented)

    @property
    def form(self) -> Form:
        """How its vectors are sent. Raises InvalidRequest."""
        options = self._options
        return self._host.reducers.form(options.dimensions, options.encoding_format, options.reducer)

    async def open(self) -> None:
        """Gets it ready for use, if it is not. Raises what a text of its length may raise."""
        if self._protocol is None:
            await self._call(self._open, heavy=True)

    def post(self, event: Change | EmbeddingCreate, client: Client, timeout: float | None = None) -> None:
        """Takes an event, whose answers go to `client`; an embedding may take `timeout` seconds. Raises a RequestError
        where it is refused at once."""
        self._check_open()
        self.touched = time.monotonic()
        size = 0 if isinstance(event, EmbeddingCreate) else len(event.text)
        protocol = self._protocol
        in_flight = self._queued + (protocol.unacked_characters if protocol is not None else 0)
        if size and in_flight and in_flight + size > self._host.limits.credit:
            raise Overloaded(f"{in_flight:,} characters are not acknowledged yet; the session's credit is used up")
        if len(self._work) >= MAX_UNACKED:
            raise Overloaded(f"{len(self._work)} events of this session wait already")
        heavy = protocol is None or size + self._behind(event) > LARGE or protocol.may_end_segment(size)
        deadline = self.touched + (timeout or self._host.timeout)
        self._run(_Work(lambda: self._receive(event, client, deadline), heavy, client, event.event_id, size, True))

    def _behind(self, event: Change | EmbeddingCreate) -> int:
        """Characters that are tokenised again for an event, beside its own."""
        if self._session is None or self._protocol is None or isinstance(event, EmbeddingCreate):
            return 0
        behind = self._protocol.offset - event.start if isinstance(event, InputTextReplace) else 0
        return max(behind, self._session.unsettled)

    def attach(
        self, client: Client, event_id: str | None, kind: type[SessionCreated | SessionResumed], **more: Any
    ) -> None:
        """A socket takes it and hears how it stands; what the one before had queued is dropped. Call `open` first."""
        self._check_open()
        if self.holder is not None and self.holder is not client:
            self._drop(self.holder)
        self.holder, self.touched = client, time.monotonic()
        self._run(_Work(lambda: self._attach(client, event_id, kind, more), False, client, event_id))

    def detach(self, client: Client) -> None:
        """A socket has gone, or lets it go."""
        self._drop(client)
        if self.holder is client:
            self.holder = None
        self._run(_Work(lambda: self._detach(client)))

    async def update(self, emit: Emit | None, watch: list[Watch] | None, client: Client, event_id: str | None) -> None:
        """Puts new rules in force. Raises InvalidRequest, StorageFull."""
        self._check_open()
        protocol = self._opened()
        if watch is not None:
            protocol.watches.check(watch)
        new = {"emit": emit or protocol.options.emit, "watch": protocol.options.watch if watch is None else watch}
        await self.write(Options(self.id, _to_json(protocol.options.model_copy(update=new))))

        def work() -> None:
            protocol.update(emit, watch, time.monotonic())
            client.send(self.report(SessionUpdated, event_id=event_id))

        await self._call(work)

    async def close(
        self, reason: Literal["closed", "expired"], client: Client | None = None, event_id: str | None = None
    ) -> None:
        """Ends it. Its text is erased before anybody hears so; if the journal cannot be written, as soon as it can."""
        self._check_open()
        self._closing, self.holder = True, None
        await self._call(lambda: None)  # what came before has its turn
        await self.write(Erase(self.id))

        def work() -> None:
            protocol, session = self._protocol, self._session
            if protocol is not None:
                protocol.close(reason, client, event_id)
            elif client is not None:
                client.send(SessionClosed(session=self.id, event_id=event_id, reason=reason))
            if session is not None:
                session.close()

        await self._call(work)

    async def fork(self, id: str, token: str, token_digest: bytes) -> Stream:
        """A new stream with the same text, its KV copied rather than computed. Not journalled yet."""
        self._check_open()

        def work() -> Stream:
            options, session = self._opened().fork(), self._session
            assert session is not None
            twin = session.fork()
            stream = Stream(self._host, Saved(id, self.owner, token_digest, _to_json(options), twin.text), token)
            stream._begin(twin)
            return stream

        return await self._call(work)

    def release(self) -> None:
        """Gives back what it has, where it never came to be used."""
        self._closing = True
        if self._session is not None:
            self._session.close()
        if self._host.journal is not None:
            self._host.journal.submit(Erase(self.id), lambda error: None)

    # How it stands

    def state(self) -> dict[str, Any]:
        """For `GET /v1/sessions`."""
        protocol = self._protocol  # not to be waited for: a thread may be at work on it
        left = self._host.ttl if self.is_attached else self.touched + self._host.ttl - time.monotonic()
        return {
            "session": self.id,
            "object": "session",
            "revision": self._saved.revision if protocol is None else protocol.acked,
            "offset": count(self._saved.text, self._options.offset_unit) if protocol is None else protocol.acked_offset,
            "kv": "warm" if self.is_warm else "cold",
            **(self._saved_place() if protocol is None else protocol.place),
            "attached": self.is_attached,
            "expires_in_s": round(max(left, 0.0), 1),
        }

    def _saved_place(self) -> dict[str, int]:
        """As `Protocol.place`, of a session that is text alone."""
        if self._options.overflow == "error":
            return {}
        start, segment = self._saved.window
        return {"segment": segment, "start": count(self._saved.text[:start], self._options.offset_unit)}

    def report(self, kind: type[Report], **more: Any) -> Report:
        """How it stands, as an event."""
        protocol, state, limits = self._opened(), self.state(), self.limits
        reducer = protocol.form.reducer
        assert self.token is not None
        return kind(
            session=self.id,
            resume_token=self.token,
            revision=protocol.acked,
            offset=protocol.acked_offset,
            kv=state["kv"],
            credit=protocol.credit,
            limits={
                "max_characters": limits.max_characters,
                "max_tokens": limits.max_tokens,
                "max_pending": limits.max_pending,
                "max_frame_bytes": limits.max_frame_bytes,
            },
            dimensions=protocol.form.dimensions,
            overflow=protocol.options.overflow,
            fingerprint=self._host.engine.info.fingerprint if reducer is None else reducer.fingerprint,
            expires_in_s=self._host.ttl,
            **protocol.place,
            **more,
        )

    def farewell(self, reason: Literal["draining", "idle", "lifetime"]) -> SessionClosed:
        """What a socket that must go hears of this session: where it can be resumed."""
        protocol = self._opened()
        resume = {
            "resume_token": self.token,
            "revision": protocol.acked,
            "offset": protocol.acked_offset,
            "expires_in_s": self._host.ttl,
        }
        # Without a journal, text does not outlive the process.
        survives = reason != "draining" or self._host.journal is not None
        return SessionClosed(session=self.id, reason=reason, resume=resume if survives else None)

    # The journal

    def begin(self) -> Entry:
        """The entry that puts it in the journal as it is."""
        session, protocol = self._session, self._opened()
        assert session is not None
        window = Window(session.start, session.segment)
        return Open(replace(self._saved, text=session.text, revision=protocol.revision, window=window))

    async def write(self, entry: Entry) -> None:
        """Waits until an entry is on disk. Raises StorageFull."""
        if self._host.journal is None:
            return
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()

        def done(error: StorageFull | None) -> None:
            def tell() -> None:
                if written.cancelled():
                    return
                if error is None:
                    written.set_result(None)
                else:
                    written.set_exception(error)

            _soon(loop, tell)

        self._host.journal.submit(entry, done)
        await written

    # Work, one after another

    def _opened(self) -> Protocol:
        assert self._protocol is not None, "it is opened before it is used"
        return self._protocol

    def _check_open(self) -> None:
        if self._closing:
            raise NotFound("the session was closed", "session")

    def _run(self, work: _Work) -> None:
        if self._busy is not None or work.heavy:
            self._work.append(work)
            self._queued += work.size
        if self._busy is None and work.heavy:
            self._busy = asyncio.get_running_loop().create_task(self._work_off())
        elif self._busy is None:
            self._do(work)
            self._flush()

    async def _call(self, work: Callable[[], Result], heavy: bool = False) -> Result:
        """Has something done in its turn, and waits for it; what it raises is raised here."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def tell(result: Result | None, error: Exception | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - the caller's to hear
                _soon(loop, tell, None, error)
            else:
                _soon(loop, tell, result, None)

        self._run(_Work(run, heavy))
        return await done

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._work:
                work = self._work.popleft()
                if self._protocol is not None:
                    self._protocol.queued = self._queued - work.size
                if work.heavy:
                    await loop.run_in_executor(self._host.pool, self._do, work)
                else:
                    self._do(work)
                    await asyncio.sleep(0)  # others' turn
                self._queued -= work.size
                self._flush()
        finally:
            self._busy = None

    def _do(self, work: _Work) -> None:
        try:
            work.run()
        except RequestError as error:
            if work.client is not None:
                self._refusals.append(Send(work.client, error_event(error, self.id, work.event_id)))
        except Exception as error:  # one stream's bug must not end the others
            logger.error("a stream failed for a reason of our own: %s", type(error).__name__, exc_info=error)
            if work.client is not None:
                refusal = Internal("the server failed on this event; its log says why")
                self._refusals.append(Send(work.client, error_event(refusal, self.id, work.event_id)))

    def _receive(self, event: Change | EmbeddingCreate, client: Client, deadline: float) -> None:
        observer = self._host.observer
        try:
            self._open()
            protocol, now = self._opened(), time.monotonic()
            if isinstance(event, EmbeddingCreate):
                protocol.embed(event, client, now, deadline)
            else:
                before = protocol.revision
                protocol.change(event, client, now)
                if protocol.durable and protocol.revision > before:
                    self._uncommitted.append((protocol.revision, event.type))
                else:
                    observer.event(event.type, "ok")
        except RequestError as error:
            observer.event(event.type, error.code)
            raise
        except Exception:
            observer.event(event.type, Internal.code)
            raise

    def _open(self) -> None:
        if self._protocol is None:
            self._begin(self._open_session())

    def _open_session(self) -> Session:
        options = self._options
        saved = self._saved
        session = self._host.engine.open_session(
            saved.text if saved.window == START else "",
            instruction=options.instruction,
            prompt_name=options.prompt_name,
            input_type=options.input_type,
            overflow=options.overflow,
            owner=self.owner,
        )
        if saved.window != START:
            try:
                session.restore(saved.text, *saved.window)
            except BaseException:
                session.close()
                raise
        return session

    def _begin(self, session: Session) -> None:
        try:
            self._protocol = Protocol(
                self.id,
                session,
                self._options,
                self.form,  # checked when it was made, but perhaps by a server with another model
                self.limits,
                durable=self._host.journal is not None,
                revision=self._saved.revision,
                digests=deque(self._saved.digests, maxlen=HISTORY),
                edited=self._saved.edited,
                now=time.monotonic(),
            )
        except BaseException:
            session.close()
            raise
        self._session = session
        if self._closing:  # whoever wanted it has gone meanwhile
            session.close()
            raise NotFound("the session was closed", "session")
        self._saved = replace(self._saved, text="", digests=())  # they are in use now

    def _drop(self, client: Client) -> None:
        """What a client has queued is not worked on any more."""
        gone = [work for work in self._work if work.droppable and work.client is client]
        self._queued -= sum(work.size for work in gone)
        self._work = deque(work for work in self._work if work not in gone)

    def _attach(
        self, client: Client, event_id: str | None, kind: type[SessionCreated | SessionResumed], more: dict[str, Any]
    ) -> None:
        protocol = self._opened()
        protocol.attach(client, time.monotonic())
        self._flush()
        client.send(self.report(kind, event_id=event_id, **more))
        protocol.tell_failures()
        protocol.tell_endings()
        protocol.tick(time.monotonic())

    def _detach(self, client: Client) -> None:
        protocol = self._protocol
        if protocol is not None and protocol.client is client:
            protocol.detach()
            self.touched = time.monotonic()

    # Effects

    def _flush(self) -> None:
        """Carries out what the machine wants, on the event loop."""
        refusals, self._refusals = self._refusals, []
        for refusal in refusals:
            refusal.client.send(refusal.event, refusal.slot)
        protocol = self._protocol
        if protocol is None:
            return
        loop = asyncio.get_running_loop()
        for effect in protocol.take():
            match effect:
                case Send(client, event, slot):
                    client.send(event, slot)
                    if isinstance(event, EmbeddingSkipped):
                        self._host.observer.skipped()
                case Commit():
                    assert self._host.journal is not None
                    told = functools.partial(self._committed, loop, effect)
                    self._host.journal.submit(JournalChange(self.id, effect), told)
                case Probe():
                    effect.snapshot.future.add_done_callback(functools.partial(self._answered, loop, effect))
        for target in protocol.take_unresolved():
            task = loop.create_task(self._resolve(target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at = protocol.wake_at()
        if wake_at is not None:
            self._timer = loop.call_later(max(wake_at - time.monotonic(), 0.001), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._run(_Work(lambda: self._opened().tick(time.monotonic())))

    def sent(self, client: Client, slot: str, event: ServerEvent) -> None:
        """A socket has taken something that it had to send, and that had a slot."""
        if slot == EMISSION:
            self._run(_Work(lambda: self._opened().sent(client, time.monotonic())))
        elif isinstance(event, EmbeddingDone) and event.final:
            self._run(_Work(lambda: self._opened().sent(client, time.monotonic(), event.segment)))

    def _committed(self, loop: asyncio.AbstractEventLoop, commit: Commit, error: StorageFull | None) -> None:
        def work() -> None:
            protocol = self._opened()
            observer, changes = self._host.observer, self._uncommitted
            if error is None:
                protocol.committed(commit)
                while changes and changes[0][0] <= commit.revision:
                    observer.event(changes.popleft()[1], "ok")
            else:
                protocol.storage_failed(commit, error, time.monotonic())
                while changes and changes[-1][0] > protocol.revision:  # taken back
                    observer.event(changes.pop()[1], error.code)

        # To take changes back is to tokenise the whole text.
        _soon(loop, self._run, _Work(work, heavy=error is not None))

    def _answered(self, loop: asyncio.AbstractEventLoop, probe: Probe, future: Future[Embedding]) -> None:
        kind = EmbeddingCreate.model_fields["type"].default if probe.client is not None else None
        if future.cancelled():
            outcome = "cancelled"
        else:
            error = future.exception()
            result: Embedding | RequestError
            if error is None:
                result, outcome = future.result(), "ok"
                seconds = time.monotonic() - (probe.asked if probe.due is None else probe.due)
                self._host.observer.probed(seconds, probe.tokens + 1, result.cached_tokens, result.computed_tokens)
            else:
                result = error if isinstance(error, RequestError) else Internal("computing this text failed")
                outcome = "out_of_memory" if result.out_of_memory else result.code
            work = _Work(lambda: self._opened().probed(probe, result, time.monotonic()))
            _soon(loop, self._run, work)
        if kind is not None:
            self._host.observer.event(kind, outcome)

    async def _resolve(self, target: Target) -> None:
        """Embeds the text of a watch, as a document."""
        loop, engine, text = asyncio.get_running_loop(), self._host.engine, target.watch.text
        assert text is not None
        vector: Any
        try:
            prompt = engine.prompt(input_type="document")
            (document,) = await loop.run_in_executor(self._host.pool, engine.divide, [text], prompt)
            future = engine.submit_batch([document.segments[0].ids], lane=Lane.QUERY, owner=self.owner)[0]
            embedding = await asyncio.wrap_future(future)
            vector = self.form.unit(embedding.vectors)[0]
        except RequestError as error:
            vector = type(error)(f"watch {target.watch.id!r}: {error.message}", "watch")
        self._run(_Work(lambda: self._opened().resolved(target, vector)))


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *values: Any) -> None:
    """From another thread. A loop that has ended has nobody left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *values)


def _to_json(options: SessionOptions) -> str:
    return options.model_dump_json(exclude={"text"})


def new_saved(id: str, owner: str, token_digest: bytes, options: SessionOptions) -> Saved:
    """A session that begins."""
    return Saved(id, owner, token_digest, _to_json(options), options.text)
