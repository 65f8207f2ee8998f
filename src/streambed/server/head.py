"""HEAD is answered as GET is, everywhere, with the same headers and no body (RFC 9110, 9.3.2)."""

from starlette.types import Receive, Scope, Send

from streambed.server.layer import Layer


class Head(Layer):
    """Outside all that looks at methods. What listens keeps the body back: it knows what was asked."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "HEAD":
            scope.setdefault("state", {})["method"] = "HEAD"  # for the log
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)
