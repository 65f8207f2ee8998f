"""The sessions of a server: their owners, their number, and how long they live."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from pydantic import ValidationError

from streambed.engine.engine import Engine
from streambed.errors import NotFound, Overloaded, TooLarge
from streambed.limits import MAX_FRAME_BYTES
from streambed.settings import Settings
from streambed.streams.effects import Peer
from streambed.streams.host import Host
from streambed.streams.limits import Limits
from streambed.streams.mark import Mark
from streambed.streams.observer import Observer
from streambed.streams.store.store import Saved, Store
from streambed.streams.stream import HostedStream
from streambed.vectors.reducers import Reducers
from streambed.wire import SessionOptions
from streambed.workers import Workers

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_STOP_SECONDS = 5.0


class Registry:
    """All sessions by id. On the event loop; a session is found by its owner alone."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        store: Store | None = None,
        reducers: Reducers | None = None,
        observer: Observer | None = None,
        many: Callable[[], bool] = lambda: False,
        most: Callable[[str], int | None] = lambda owner: None,
    ) -> None:
        """many: whether there are several owners. most: how many sessions an owner may have; by default all as many as
        the settings say."""
        self._most = most
        self._settings = settings
        self._store = store
        self._workers = Workers(2, "streambed-streams", many)
        self._streams: dict[str, HostedStream] = {}
        self._count: Counter[str] = Counter()
        self._sweeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._host = Host(
            engine,
            reducers or Reducers(engine.info.dimensions, {}, engine.info.default_dimensions),
            store,
            self._workers,
            Limits(
                max_characters=min(settings.max_session_characters, engine.documents.max_characters),
                max_tokens=engine.info.max_tokens - 1,
                max_frame_bytes=MAX_FRAME_BYTES,
            ),
            settings.max_session_characters,
            settings.timeout,
            settings.session_ttl,
            observer or Observer(),
        )
        if store is not None:
            store.on_commit = self._host.observer.committed
            recovered = store.recover()
            for saved in recovered:
                try:
                    self._add(HostedStream(self._host, saved))
                except ValidationError:
                    logger.error("journal: session %s has options that this version does not know; left out", saved.id)
            if recovered:
                logger.info("journal: %d sessions recovered", len(recovered))

    def start(self) -> None:
        """Starts to look for expired sessions."""
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def stop(self) -> None:
        """Ends what runs in the background; texts stay in the journal."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        self._workers.close()
        if self._store is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._store.close)

    def __len__(self) -> int:
        return len(self._streams)

    def census(self) -> tuple[int, int, int]:
        """How many sessions are warm, how many a socket holds, and how many there are. From any thread."""
        streams = list(self._streams.values())
        held = sum(stream.holder is not None for stream in streams)
        return sum(stream.is_warm for stream in streams), held, len(streams)

    def count(self, owner: str) -> int:
        """How many sessions an owner has. From any thread."""
        return self._count[owner]

    def of(self, owner: str) -> list[HostedStream]:
        """An owner's sessions."""
        return [stream for stream in self._streams.values() if stream.owner == owner]

    async def create(self, owner: str, options: SessionOptions) -> HostedStream:
        """Opens a session; with a journal, when this returns it is on disk.

        Raises:
            Overloaded: the owner has as many as allowed. And what its options and text may raise.
        """
        id, token = _new_id(), secrets.token_urlsafe(24)
        saved = Saved(id, owner, _digest(token), options.to_json(), options.text, Mark(offset=len(options.text)))
        stream = HostedStream(self._host, saved, token)
        self._host.form_of(options)  # refused here, before anything is done
        if len(options.text) > (most := self._host.limits_of(options).max_characters):
            raise TooLarge(f"the text has {len(options.text):,} characters; the limit is {most:,}", "text")
        return await self._enter(stream)

    async def fork(self, stream: HostedStream) -> HostedStream:
        """Opens a session with the same text and options. Raises as `create`."""
        self._check_room(stream.owner)
        return await self._finish(self._fork(stream))

    def find(self, owner: str, id: str) -> HostedStream:
        """Raises NotFound, whether there is none or it is another's."""
        stream = self._streams.get(id)
        if stream is None or stream.owner != owner or stream.expired:
            raise NotFound("there is no such session; it may have expired", "session")
        return stream

    def find_for_resume(self, owner: str, id: str, token: str) -> HostedStream:
        """Raises NotFound, also where the token is another one."""
        stream = self.find(owner, id)
        if not hmac.compare_digest(_digest(token), stream.token_digest):
            raise NotFound("there is no such session; it may have expired", "session")
        stream.token = token
        return stream

    async def close(self, stream: HostedStream, peer: Peer | None = None, event_id: str | None = None) -> None:
        """Ends a session; its text is erased."""
        self._remove(stream)
        await self._finish(stream.close("closed", peer, event_id))

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Finishes what has begun even if the client leaves: half of it would leave text behind."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _fork(self, stream: HostedStream) -> HostedStream:
        token = secrets.token_urlsafe(24)
        return await self._enter(await stream.fork(_new_id(), token, _digest(token)))

    def _check_room(self, owner: str) -> None:
        quota = self._most(owner)
        most = self._settings.max_sessions if quota is None else quota
        if self._count[owner] >= most:
            raise Overloaded(f"{most} sessions are open, which is the limit for a key; close some")

    async def _enter(self, stream: HostedStream) -> HostedStream:
        try:
            self._check_room(stream.owner)
        except Overloaded:
            stream.release()
            raise
        self._add(stream)
        try:
            await stream.open()
            await stream.save()
        except BaseException:
            self._remove(stream)
            stream.release()
            raise
        return stream

    def _add(self, stream: HostedStream) -> None:
        self._streams[stream.id] = stream
        self._count[stream.owner] += 1

    def _remove(self, stream: HostedStream) -> None:
        if self._streams.pop(stream.id, None) is not None:
            self._count[stream.owner] -= 1
            if not self._count[stream.owner]:
                del self._count[stream.owner]

    async def _sweep(self) -> None:
        pause = min(5.0, self._settings.session_ttl / 4)
        while True:
            await asyncio.sleep(pause)
            await self._expire(stream for stream in list(self._streams.values()) if stream.expired)

    async def _expire(self, streams: Iterable[HostedStream]) -> None:
        for stream in streams:
            self._remove(stream)
            try:
                await stream.close("expired")
            except Exception as error:  # one session's bug must not keep the others
                logger.error("a session could not be ended: %s", type(error).__name__, exc_info=error)


def _new_id() -> str:
    return f"ses_{secrets.token_hex(12)}"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
