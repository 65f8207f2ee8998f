"""The one table of routes. A new route is a row here and a handler; all that concerns routes reads this table."""

import functools
import re
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.routing import compile_path

from streambed.limits import KEY_BODY, SESSION_BODY
from streambed.server import dropin
from streambed.server.dropin import as_ollama, as_tei
from streambed.server.metrics import NO_LANE, REQUEST_LANES
from streambed.server.replies import Dialect
from streambed.wire import (
    AppendRequest,
    EmbeddingRequest,
    EmbeddingsRequest,
    PrefixesRequest,
    SessionOptions,
    SetRequest,
    TokenizeRequest,
)

WEBSOCKET = "WEBSOCKET"
FILES = "FILES"
"""The method of a row for all files below its path."""


@dataclass(frozen=True)
class Row:
    """A route."""

    method: str
    path: str
    """As Starlette has it: `/v1/models/{model:path}`."""
    handler: str
    """Who answers: `embeddings.create` is `create` of what the application calls `embeddings`."""
    body: type[BaseModel] | None = None
    """What the OpenAPI document says of the body; the handler reads it."""
    limit: int | None = None
    """Bytes of a body, where it is less than --max-body."""
    lanes: tuple[str, ...] = (NO_LANE,)
    """In which its requests are counted: the first one unless the request says another."""
    open: bool = False
    """No key is asked for (of files, to read them), and its requests take no place of `--max-requests`."""
    quiet: bool = False
    """Asked every few seconds by machines: counted, and logged only where it fails."""
    shown: bool = True
    """In the OpenAPI document and in hints."""
    status: int = 200
    """Of an answer that is no error."""
    plain: bool = False
    """Whether that answer is plain text, not JSON."""
    dialect: Dialect | None = None
    """How another server, whose route it is, says errors."""

    @functools.cached_property
    def template(self) -> str:
        """`/v1/models/{model}`: the path as people write it, by which requests are counted and logged."""
        return compile_path(self.path)[1]

    @functools.cached_property
    def _regex(self) -> re.Pattern[str]:
        return compile_path(self.path)[0]

    def leads(self, path: str) -> bool:
        """Whether a path is one of this row's, for whatever method."""
        return path.startswith(f"{self.path}/") if self.method == FILES else bool(self._regex.match(path))

    def takes(self, method: str) -> bool:
        """Whether it answers this method; of files, that is for the files to say."""
        return self.method in (method, FILES)

    def is_open(self, method: str) -> bool:
        """Whether this needs no key."""
        return self.open and method == ("GET" if self.method == FILES else self.method)


_SESSION = functools.partial(Row, limit=SESSION_BODY, lanes=("stream",))
_TEI = functools.partial(Row, body=dropin.TeiRequest, dialect=as_tei)
_OLLAMA = functools.partial(Row, dialect=as_ollama)
_PAGE = functools.partial(Row, open=True, shown=False)
_PROBE = functools.partial(Row, quiet=True)

ROUTES: tuple[Row, ...] = (
    Row("POST", "/v1/embeddings", "embeddings.create", EmbeddingsRequest, lanes=REQUEST_LANES),
    Row("POST", "/v1/embeddings/prefixes", "embeddings.prefixes", PrefixesRequest, lanes=REQUEST_LANES),
    Row("POST", "/tokenize", "embeddings.tokenize", TokenizeRequest),
    _SESSION("POST", "/v1/sessions", "sessions.create", SessionOptions, status=201),
    _SESSION("GET", "/v1/sessions", "sessions.list"),
    _SESSION("GET", "/v1/sessions/{session}", "sessions.get"),
    _SESSION("DELETE", "/v1/sessions/{session}", "sessions.delete"),
    _SESSION("POST", "/v1/sessions/{session}/append", "sessions.append", AppendRequest),
    _SESSION("PUT", "/v1/sessions/{session}/text", "sessions.set", SetRequest),
    _SESSION("POST", "/v1/sessions/{session}/embedding", "sessions.embed", EmbeddingRequest),
    _TEI("POST", "/embed", "dropin.tei_embed", lanes=REQUEST_LANES),
    _OLLAMA("POST", "/api/embed", "dropin.ollama_embed", dropin.OllamaEmbedRequest, lanes=REQUEST_LANES),
    _OLLAMA("POST", "/api/embeddings", "dropin.ollama_embeddings", dropin.OllamaEmbeddingsRequest, lanes=REQUEST_LANES),
    _OLLAMA("POST", "/api/show", "dropin.ollama_show", dropin.OllamaShowRequest),
    _OLLAMA("GET", "/api/tags", "dropin.ollama_tags"),
    _OLLAMA("GET", "/api/version", "dropin.ollama_version"),
    _PAGE("GET", "/", "home", dialect=as_tei),
    # As TEI has it: where Hugging Face's own client posts.
    _TEI("POST", "/", "dropin.tei_embed", lanes=(NO_LANE, *REQUEST_LANES), shown=False),
    _PAGE("GET", "/docs", "reference.page"),
    Row("GET", "/openapi.json", "reference.document", shown=False),
    _PAGE("GET", "/playground", "playground.redirect"),
    _PAGE("POST", "/playground/key", "playground.enter", limit=KEY_BODY),  # where the page brings a key
    _PAGE("DELETE", "/playground/key", "playground.leave"),
    _PAGE(FILES, "/docs", "reference.files"),
    _PAGE(FILES, "/playground", "playground.files"),
    Row(WEBSOCKET, "/v1/embeddings", "sockets.serve", shown=False),
    Row("GET", "/v1/models", "health.models"),
    Row("GET", "/v1/models/{model:path}", "health.model"),
    Row("GET", "/info", "health.info"),
    _PROBE("GET", "/health", "health.ready"),
    _PROBE("GET", "/readyz", "health.ready", open=True),
    _PROBE("GET", "/livez", "health.live", open=True),
    _PROBE("GET", "/metrics", "metrics.serve", plain=True),
)


class Routes:
    """The rows that a server has, in the order in which they are tried."""

    def __init__(self, rows: tuple[Row, ...] = ROUTES) -> None:
        self.rows = rows

    def at(self, path: str) -> list[Row]:
        """All that leads a path somewhere."""
        return [row for row in self.rows if row.leads(path)]

    def find(self, method: str, path: str) -> Row | None:
        """The row of a request, or else one for other methods of its path."""
        there = self.at(path)
        return next((row for row in there if row.takes(method)), there[0] if there else None)

    def lanes(self) -> dict[str, list[str]]:
        """By template, the lanes of its requests; sockets are counted otherwise."""
        lanes: dict[str, list[str]] = {}
        for row in self.rows:
            if row.method != WEBSOCKET:
                lanes.setdefault(row.template, []).extend(row.lanes)
        return lanes
