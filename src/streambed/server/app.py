"""The application: routes, error handlers, guard."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

import streambed
from streambed.engine.engine import Engine
from streambed.errors import ERROR_TABLE, Internal, InvalidRequest, RequestError
from streambed.server.access import Access
from streambed.server.directions import Directions, template_of
from streambed.server.dropin import ROUTES as dropin_routes
from streambed.server.dropin import DropIn
from streambed.server.embeddings import Embeddings
from streambed.server.guard import Guard
from streambed.server.head import Head
from streambed.server.health import WATCHDOG_SECONDS, Health
from streambed.server.home import home
from streambed.server.ignored import IgnoredFields
from streambed.server.metrics import Metrics
from streambed.server.origins import Cors
from streambed.server.playground import Page, Playground, Visits
from streambed.server.proxy import Proxy
from streambed.server.reference import Reference, ReferenceFiles
from streambed.server.refusals import error_response, note
from streambed.server.sessions import ROUTES, Sessions
from streambed.server.socket import Sockets
from streambed.settings import Settings
from streambed.streams.registry import Registry
from streambed.streams.store.store import Store
from streambed.vectors.reducers import Reducer, Reducers
from streambed.wire import EmbeddingsRequest, PrefixesRequest, TokenizeRequest

logger = logging.getLogger("streambed")


def create_app(
    engine: Engine,
    settings: Settings,
    keys: tuple[str, ...] = (),
    journal: Store | None = None,
    reducers: Mapping[str, Reducer] | None = None,
    metrics: Metrics | None = None,
) -> ASGIApp:
    """The ASGI application over a loaded engine. keys: what requests must carry; none means an open server.

    journal: an open one, whose sessions are recovered here; the application closes it when it ends. reducers: by the names
    that requests use. metrics: those to count in, where somebody else serves them.
    """
    names = settings.served_model_name or (engine.info.model,)
    forms = Reducers(engine.info.dimensions, reducers or {}, engine.info.default_dimensions)
    metrics = metrics or Metrics()
    embeddings = Embeddings(engine, settings, names, forms, metrics)
    dropin, health = DropIn(engine, embeddings, names), Health(engine, settings, names, forms)
    registry = Registry(engine, settings, journal, forms, metrics)
    sessions, sockets = Sessions(registry, settings), Sockets(registry, settings, metrics)
    metrics.watch(engine, registry, sockets, WATCHDOG_SECONDS)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        registry.start()
        yield {"sockets": sockets}
        embeddings.close()
        metrics.unwatch(engine)
        await registry.stop()

    app = FastAPI(
        title="Streambed",
        version=streambed.__version__,
        summary=_SUMMARY,
        lifespan=lifespan,
        openapi_url=None,  # `Reference` has it, and the viewer
        redirect_slashes=False,
    )
    routes: tuple[tuple[str, str, Callable[..., Any], type[BaseModel] | None], ...] = (
        ("POST", "/v1/embeddings", embeddings.create, EmbeddingsRequest),
        ("POST", "/v1/embeddings/prefixes", embeddings.prefixes, PrefixesRequest),
        ("POST", "/tokenize", embeddings.tokenize, TokenizeRequest),
        *((method, path, getattr(sessions, name), model) for method, path, name, model in ROUTES),
        *((method, path, getattr(dropin, name), model) for method, path, name, model in dropin_routes),
    )
    for method, path, handler, model in routes:
        extra = None
        if model is not None:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            extra = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
        app.add_api_route(path, handler, methods=[method], responses=_ERRORS, openapi_extra=extra)
    visits = Visits()
    guard = Guard(app, settings, keys, visits)
    page, reference = Playground(visits, guard.owner_of), Reference(app, bool(keys))
    for method, path, handler in (
        ("GET", "/", home),
        ("POST", "/", dropin.tei_embed),  # as TEI has it: where Hugging Face's own client posts
        ("GET", "/docs", reference.page),
        ("GET", "/openapi.json", reference.document),
        ("GET", "/playground", page.redirect),
        ("POST", "/playground/key", page.enter),
        ("DELETE", "/playground/key", page.leave),
    ):
        app.add_api_route(path, handler, methods=[method], include_in_schema=False)
    app.mount("/docs", ReferenceFiles())
    app.mount("/playground", Page())
    app.add_api_websocket_route("/v1/embeddings", sockets.serve)
    for path, handler in (
        ("/v1/models", health.models),
        ("/v1/models/{model:path}", health.model),
        ("/info", health.info),
        ("/health", health.ready),
        ("/readyz", health.ready),
        ("/livez", health.live),
        *([("/metrics", metrics.serve)] if settings.metrics_port is None else []),
    ):
        app.add_api_route(path, handler, methods=["GET"], responses=_ERRORS if "{" in path else None)
    directions = Directions(app.routes)
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, functools.partial(_on_http_exception, directions))
    app.add_exception_handler(Exception, _on_bug)
    metrics.expect({template_of(route) for route in app.routes if isinstance(route, Route | APIRoute | Mount)})
    inner: ASGIApp = IgnoredFields(guard) if settings.ignore_unknown_fields else guard
    if settings.allow_origin:
        # Outside the guard, so that the page that caused a refusal can read it.
        inner = Cors(inner, settings.allow_origin)
    return Head(Proxy(Access(inner, app.routes, metrics), settings, directions.lead))


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _answer(request, error)


def _answer(request: Request, error: RequestError, status: int | None = None) -> Response:
    note(request.scope, error)
    return error_response(error, status, request.state.path)


async def _on_http_exception(directions: Directions, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.state.path
    if error.status_code == 404:
        return _answer(request, directions.not_found(path))
    if error.status_code == 405 and (methods := directions.methods(path)):
        response = _answer(request, directions.wrong_method(path, request.method), 405)
        response.headers["Allow"] = ", ".join(methods)
        return response
    response = _answer(request, InvalidRequest(str(error.detail)), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _on_bug(request: Request, error: Exception) -> Response:
    logger.error("a request failed for a reason of our own: %s", type(error).__name__, exc_info=error)
    response = _answer(request, Internal("the server failed on this request; its log says why"))
    # Starlette raises the error again and uvicorn closes the connection: a client must not send its next request there.
    response.headers["Connection"] = "close"
    return response


_SUMMARY = "Real-time text embeddings: Qwen3-Embedding behind the OpenAI API."
_ERROR_SCHEMA = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string", "enum": [error.code for error in ERROR_TABLE]},
                "details": {"type": "object", "description": "Where there is more to act on: `indexes` of bad items."},
            },
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": ", ".join(error.code for error in ERROR_TABLE if error.status == status),
        "content": {"application/json": {"schema": _ERROR_SCHEMA}},
    }
    for status in (400, 401, 404, 409, 413, 415, 429, 500, 503, 504, 507)
}
