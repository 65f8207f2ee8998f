"""Which pages may call the server: those of this host, and those that `--allow-origin` names."""

from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

from streambed.errors import ForbiddenOrigin
from streambed.origins import canonical_origin, same_host
from streambed.server.ignored import HEADER as IGNORED_FIELDS
from streambed.server.layer import Layer


def is_allowed(origin: str, allowed: Collection[str]) -> bool:
    """Whether an Origin header is one of these canonical ones, or `*` is."""
    if "*" in allowed:
        return True
    try:
        return canonical_origin(origin) in allowed
    except ValueError:
        return False


@dataclass(eq=False)
class Origins(Layer):
    """Browsers open WebSockets and post for any page, so a page must be of this host (behind whatever terminates TLS)
    or named by --allow-origin: cross-site WebSocket hijacking, cross-site request forgery."""

    allowed: Collection[str]

    def check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = scope["state"]["headers"]
        origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
        if b"origin" not in headers or scope.get("method") in ("GET", "OPTIONS"):
            return  # no browser, or nothing that writes
        if not same_host(origin, host) and not is_allowed(origin, self.allowed):
            raise ForbiddenOrigin("pages of this origin may not write or open streams here; see --allow-origin")


class Cors(CORSMiddleware):
    """Lets allowed pages read replies, also those of a public page that calls a server in its own network."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=allowed,
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=["*"],  # SDKs send their own; the guard asks for a key whatever the headers
            allow_private_network=True,
            expose_headers=["Server-Timing", "Retry-After", "X-Request-Id", IGNORED_FIELDS],
        )

    def is_allowed_origin(self, origin: str) -> bool:
        return is_allowed(origin, self.allow_origins)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            del response.headers["Access-Control-Allow-Private-Network"]
        return response
