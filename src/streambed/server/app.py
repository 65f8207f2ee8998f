"""The application: routes, error handlers, guard."""

import contextlib
import functools
import inspect
import logging
import operator
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

import streambed
from streambed.engine.engine import Engine
from streambed.errors import Internal, InvalidRequest, RequestError
from streambed.server.access import Access
from streambed.server.allowance import Allowance
from streambed.server.bodies import Bodies
from streambed.server.directions import Directions
from streambed.server.dropin import DropIn
from streambed.server.embeddings import Embeddings
from streambed.server.guard import Admission, Hosts, Quotas, Refusals, SocketPaths
from streambed.server.head import Head
from streambed.server.health import WATCHDOG_SECONDS, Health
from streambed.server.home import home
from streambed.server.ignored import IgnoredFields
from streambed.server.keyring import Keyring
from streambed.server.keys import Keys
from streambed.server.metrics import Metrics
from streambed.server.origins import Cors, Origins
from streambed.server.pace import Pace
from streambed.server.playground import Playground, Visits
from streambed.server.proxy import Proxy
from streambed.server.reference import Reference
from streambed.server.replies import dialect_of, error_response, note
from streambed.server.routes import FILES, ROUTES, WEBSOCKET, Routes
from streambed.server.sessions import Sessions
from streambed.server.socket import Sockets
from streambed.server.usage import Usage
from streambed.settings import Settings
from streambed.streams.registry import Registry
from streambed.streams.store.store import Store
from streambed.vectors.reducers import Reducer, Reducers

logger = logging.getLogger("streambed")


def create_app(
    engine: Engine,
    settings: Settings,
    keyring: Keyring | None = None,
    journal: Store | None = None,
    reducers: Mapping[str, Reducer] | None = None,
    metrics: Metrics | None = None,
) -> ASGIApp:
    """The ASGI application over a loaded engine. keyring: what requests must carry; without one, or with an empty
    one, nothing.

    journal: an open one, whose sessions are recovered here; the application closes it when it ends. reducers: by the names
    that requests use. metrics: those to count in, where somebody else serves them.
    """
    names = settings.served_model_name or (engine.info.model,)
    forms = Reducers(engine.info.dimensions, reducers or {}, engine.info.default_dimensions)
    metrics = metrics or Metrics()
    keyring = keyring or Keyring(settings)
    many, usage = keyring.many, Usage(keyring)
    embeddings = Embeddings(engine, settings, names, forms, metrics, many)
    registry = Registry(engine, settings, journal, forms, metrics, many, lambda owner: keyring.quota(owner).sessions)
    pace = Pace(many, usage.debt)
    sockets = Sockets(registry, settings, metrics, pace)
    keyring.on_change.append(lambda: sockets.dismiss(keyring))
    metrics.watch(engine, registry, sockets, usage, WATCHDOG_SECONDS)
    engine.compute.step_listeners.append(usage.step)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        registry.start()
        yield {"sockets": sockets}
        embeddings.close()
        metrics.unwatch(engine)
        engine.compute.step_listeners.remove(usage.step)
        await registry.stop()

    app = FastAPI(
        title="Streambed",
        version=streambed.__version__,
        summary=_SUMMARY,
        lifespan=lifespan,
        openapi_url=None,  # `Reference` has it, and the viewer
        redirect_slashes=False,
    )
    visits, routes = (
        Visits(),
        Routes(tuple(row for row in ROUTES if row.handler != "metrics.serve" or settings.metrics_port is None)),
    )
    in_flight = Allowance(
        settings.body_memory, "bytes of bodies are in flight", many, lambda owner: keyring.quota(owner).body_bytes
    )
    inside = SocketPaths(
        Bodies(Admission(app, settings, keyring, embeddings.workers.wait), settings.max_body, in_flight, pace), routes
    )
    keyed = Keys(Quotas(inside, usage), keyring, visits)
    guard: ASGIApp = Refusals(Hosts(Origins(keyed, settings.allow_origin), settings, not keyring.is_open))
    reference = Reference(app, not keyring.is_open)
    handlers = SimpleNamespace(
        embeddings=embeddings,
        sessions=Sessions(registry, settings),
        dropin=DropIn(engine, embeddings),
        home=home,
        reference=reference,
        playground=Playground(visits, keyring),
        sockets=sockets,
        health=Health(engine, settings, embeddings, forms),
        metrics=metrics,
    )
    for row in routes.rows:
        handler = operator.attrgetter(row.handler)(handlers)
        if row.method == FILES:
            app.mount(row.path, handler)
        elif row.method == WEBSOCKET:
            app.add_api_websocket_route(row.path, handler)
        else:
            more = reference.operation(row, inspect.getdoc(handler) or "")
            app.add_api_route(row.path, handler, methods=[row.method], include_in_schema=row.shown, **more)
    app.add_exception_handler(RequestError, _answer)
    app.add_exception_handler(HTTPException, functools.partial(_on_http_exception, Directions(routes)))
    app.add_exception_handler(Exception, _on_bug)
    metrics.expect(routes.lanes())
    if settings.ignore_unknown_fields:
        guard = IgnoredFields(guard)
    if settings.allow_origin:
        # Outside the guard, so that the page that caused a refusal can read it.
        guard = Cors(guard, settings.allow_origin)
    return Head(Proxy(Access(guard, routes, metrics, usage), settings, lambda path: bool(routes.at(path))))


async def _answer(request: Request, error: Exception, status: int | None = None) -> Response:
    assert isinstance(error, RequestError)
    note(request.scope, error)
    return error_response(error, status, dialect_of(request.scope))


async def _on_http_exception(directions: Directions, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.state.path
    if error.status_code == 404:
        return await _answer(request, directions.not_found(path))
    if error.status_code == 405 and (methods := directions.methods(path)):
        response = await _answer(request, directions.wrong_method(path, request.method), 405)
        response.headers["Allow"] = ", ".join(methods)
        return response
    response = await _answer(request, InvalidRequest(str(error.detail)), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _on_bug(request: Request, error: Exception) -> Response:
    logger.error("a request failed for a reason of our own: %s", type(error).__name__, exc_info=error)
    response = await _answer(request, Internal("the server failed on this request; its log says why"))
    # Starlette raises the error again and uvicorn closes the connection: a client must not send its next request there.
    response.headers["Connection"] = "close"
    return response


_SUMMARY = "Real-time text embeddings: Qwen3-Embedding behind the OpenAI API."
