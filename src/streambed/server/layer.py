"""What stands around the application: layers of ASGI, one job each."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class Layer:
    """Middleware for requests and handshakes; the server's own events go past it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passes = scope["type"] == "lifespan"
        await (self._app if passes else self.serve)(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what `check` lets through."""
        self.check(scope)
        await self._app(scope, receive, send)

    def check(self, scope: Scope) -> None:
        """Raises what a request is refused with; `Refusals` answers it."""
