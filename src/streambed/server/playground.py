"""`/playground`: a page to watch an embedding follow a text. Its files are open; what it asks for needs the key.

Browsers cannot send `Authorization` with a page or a WebSocket. So the page posts the key once and gets a cookie that no
script can read and no other site can send (RFC 6265bis, SameSite=Strict); the guard takes it from pages of this host
alone. The cookie is a random name for the visit, never the key.
"""

import secrets
import time
from collections import OrderedDict
from pathlib import Path

from pydantic import Field
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from streambed.errors import Unauthorized
from streambed.limits import MAX_VISITS, VISIT_SECONDS
from streambed.server.ignored import parse_body
from streambed.server.keyring import Key, Keyring
from streambed.wire import Strict

FILES = Path(__file__).with_name("playground")
COOKIE = "streambed"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class KeyRequest(Strict):
    """Body of `POST /playground/key`."""

    api_key: str = Field(max_length=4096, description="A key of this server.")


class Visits:
    """Browsers that have shown a key."""

    def __init__(self) -> None:
        self._visits: OrderedDict[str, tuple[Key, float]] = OrderedDict()

    def open(self, key: Key) -> str:
        """A name for a visit with this key."""
        name = secrets.token_urlsafe(24)
        self._visits[name] = (key, time.monotonic() + VISIT_SECONDS)
        while len(self._visits) > MAX_VISITS:
            self._visits.popitem(last=False)
        return name

    def key(self, cookies: str) -> Key | None:
        """The key of the visit that a Cookie header names, if any. It may no longer be one."""
        key, end = self._visits.get(_name(cookies), (None, 0.0))
        if key is None or time.monotonic() >= end:
            return None
        self._visits.move_to_end(_name(cookies))
        return key

    def close(self, cookies: str) -> None:
        """Forgets it."""
        self._visits.pop(_name(cookies), None)


class Page(StaticFiles):
    """A page's files."""

    def __init__(self, files: Path = FILES) -> None:
        super().__init__(directory=files, html=True)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


class Playground:
    """The handlers."""

    def __init__(self, visits: Visits, keyring: Keyring) -> None:
        self.files = Page()
        self._visits = visits
        self._keyring = keyring

    async def redirect(self, request: Request) -> Response:
        """To the page."""
        return RedirectResponse(f"{_root(request)}/playground/", 308)

    async def enter(self, request: Request) -> Response:
        """Takes a key; answers with the cookie of a visit."""
        key = self._keyring.find(parse_body(KeyRequest, request, await request.body()).api_key.strip().encode())
        if key is None:
            raise Unauthorized("this is not a key of this server", "api_key")
        response = Response(status_code=204)
        response.set_cookie(
            COOKIE, self._visits.open(key), VISIT_SECONDS, path=_root(request) or "/", httponly=True, samesite="strict",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    async def leave(self, request: Request) -> Response:
        """Ends the visit."""
        self._visits.close(request.headers.get("cookie", ""))
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, path=_root(request) or "/", httponly=True, samesite="strict")
        return response


def _root(request: Request) -> str:
    """Below which path browsers see this server."""
    return str(request.scope.get("root_path", ""))


def _name(cookies: str) -> str:
    return cookie_parser(cookies).get(COOKIE, "")
