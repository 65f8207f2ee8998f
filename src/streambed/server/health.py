"""Whether the server lives, whether it can work, and what it serves."""

import time
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

import streambed
from streambed.engine.engine import Engine
from streambed.errors import NotReady
from streambed.server.dropin import tei_facts
from streambed.server.embeddings import Embeddings
from streambed.server.replies import Json
from streambed.settings import Settings
from streambed.vectors.reducers import Reducers

DRAINING = "draining"
"""In a request's state once the server has been told to end, also on connections that it keeps for now."""
WATCHDOG_SECONDS = 60.0
"""Work that waits this long without any step ending means that the engine is stuck."""


class Health:
    """The handlers. None of them waits for the engine."""

    def __init__(self, engine: Engine, settings: Settings, embeddings: Embeddings, reducers: Reducers) -> None:
        self._engine = engine
        self._settings = settings
        self._reducers = reducers
        self._embeddings = embeddings
        self._created = int(time.time())

    async def live(self, request: Request) -> Response:
        """`GET /livez`: answers if the event loop runs."""
        return Json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """`GET /readyz`: whether the engine takes work and completes it."""
        if getattr(request.state, DRAINING, False):
            raise NotReady("the server is shutting down")
        if not self._engine.ready:
            raise NotReady("the engine does not take work")
        if self._engine.stats().last_progress_s > WATCHDOG_SECONDS:
            raise NotReady("the engine makes no progress")
        return Json({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """OpenAI's list of models, with window and dimensions."""
        return Json({"object": "list", "data": [self._model(name) for name in self._embeddings.names]})

    async def model(self, request: Request) -> Response:
        """One served model, by its name."""
        name = request.path_params["model"]
        self._embeddings.check_model(name)
        return Json(self._model(name))

    def _model(self, name: str) -> dict[str, object]:
        info = self._engine.info
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "streambed",
            "max_model_len": info.max_tokens,
            "dimensions": info.default_dimensions,
        }

    async def info(self, request: Request) -> Response:
        """What was loaded and how it is doing; TEI's keys, too."""
        engine = self._engine
        body = tei_facts(engine, self._settings) | {
            "version": streambed.__version__,
            "served_model_names": self._embeddings.names,
            **asdict(engine.info),
            "pooling": "last token",
            "end_token": engine.tokenizer.end_id,
            "prompts": engine.checkpoint.prompts,
            "reducers": {name: reducer.about() for name, reducer in self._reducers.reducers.items()},
            "stats": asdict(engine.stats()),
        }
        return Json(body)
