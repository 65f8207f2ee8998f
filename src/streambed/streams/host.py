"""What the streams of a server share."""

import asyncio
import functools
from collections import defaultdict
from dataclasses import dataclass, field, replace

from streambed.engine.engine import Engine
from streambed.engine.sequence import Lane
from streambed.engine.session import Session
from streambed.errors import RequestError
from streambed.streams.limits import Limits
from streambed.streams.observer import Observer
from streambed.streams.store.store import Saved, Store
from streambed.streams.triggers import Vector
from streambed.vectors.reducers import Form, Reducers
from streambed.wire import SessionOptions, Watch
from streambed.workers import Workers

WATCHES_AT_ONCE = 8
"""Texts of watches of one owner that are embedded at once."""


@dataclass(frozen=True)
class Host:
    """Engine, store and limits, and what a session needs of them for its options."""

    engine: Engine
    reducers: Reducers
    store: Store | None
    workers: Workers
    limits: Limits
    max_segmented: int
    """Characters of a text that may outgrow the window."""
    timeout: float
    """Seconds after which an embedding that was asked for is given up."""
    ttl: float
    """Seconds that a session lives without a client."""
    observer: Observer
    gates: defaultdict[str, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(functools.partial(asyncio.Semaphore, WATCHES_AT_ONCE))
    )
    """Of each owner, for the texts of watches: hundreds may come with one event."""

    def limits_of(self, options: SessionOptions) -> Limits:
        """What a session may hold: a text that goes on in segments is not bound to what a window holds."""
        if options.overflow == "error":
            return self.limits
        return replace(self.limits, max_characters=self.max_segmented)

    def form_of(self, options: SessionOptions) -> Form:
        """How its vectors are sent. Raises InvalidRequest."""
        return self.reducers.form(options.dimensions, options.encoding_format, options.reducer)

    def open(self, saved: Saved, options: SessionOptions) -> Session:
        """Its text in the engine. Raises what a text of its length may raise."""
        is_whole = saved.mark.start == saved.mark.segment == 0
        session = self.engine.open_session(
            saved.text if is_whole else "",
            instruction=options.instruction,
            prompt_name=options.prompt_name,
            input_type=options.input_type,
            overflow=options.overflow,
            owner=saved.owner,
        )
        if not is_whole:
            try:
                session.restore(saved.text, saved.mark.start, saved.mark.segment)
            except BaseException:
                session.close()
                raise
        return session

    async def embed(self, watch: Watch, owner: str, form: Form) -> Vector | RequestError:
        """The unit vector of a watch's text, as a document; or why there is none."""
        assert watch.text is not None
        prompt = self.engine.prompt(input_type="document")
        texts = [watch.text]
        try:
            (document,) = await self.workers.run(owner, lambda: self.engine.documents.divide(texts, prompt))
            future = self.engine.submit_batch([document.segments[0].ids], lane=Lane.QUERY, owner=owner)[0]
            return form.unit((await asyncio.wrap_future(future)).vectors).squeeze(0)
        except RequestError as error:
            return type(error)(f"watch {watch.id!r}: {error.message}", "watch")
