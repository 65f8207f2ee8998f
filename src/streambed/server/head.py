"""HEAD is answered as GET is, everywhere, with the same headers and no body (RFC 9110, 9.3.2)."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class Head:
    """Middleware, outside all that looks at methods. What listens keeps the body back: it knows what was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope.setdefault("state", {})["method"] = "HEAD"  # for the log
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
