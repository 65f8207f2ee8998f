"""What proxies in front change: the path below which the server stands, and how browsers reach it.

`--root-path` says the path once and for all. Where a proxy named by `--trusted-proxy` sends `X-Forwarded-Prefix`, `-Proto`
or `-Host`, these count for its request. From anybody else they mean nothing.
"""

import ipaddress
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from streambed.server.layer import Layer
from streambed.settings import Settings, is_prefix


class Proxy(Layer):
    """Outside all that looks at paths. Requests come with the prefix or without, as proxies do either; inside,
    `scope["path"]` always has it and `scope["root_path"]` says what it is (ASGI)."""

    def __init__(self, app: ASGIApp, settings: Settings, leads: Callable[[str], bool]) -> None:
        """leads: whether there is a route at a path."""
        super().__init__(app)
        self._root_path = settings.root_path
        self._leads = leads
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in settings.trusted_proxy]

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = dict(scope)
        forwarded = self._forwarded(scope)
        prefix = forwarded.get(b"prefix", "").rstrip("/")
        if not is_prefix(prefix):
            prefix = self._root_path
        if (proto := forwarded.get(b"proto", "").lower()) in ("http", "https"):
            scope["scheme"] = proto.replace("http", "ws") if scope["type"] == "websocket" else proto
        if host := forwarded.get(b"host"):
            others = [pair for pair in scope["headers"] if pair[0].lower() != b"host"]
            scope["headers"] = [*others, (b"host", host.encode("latin-1"))]
        if prefix:
            scope |= {"root_path": prefix, "path": prefix + self._without(prefix, scope["path"])}
        await self.app(scope, receive, send)

    def _without(self, prefix: str, path: str) -> str:
        """The path inside the server. With a prefix such as `/v1` a path can be meant with it or without it."""
        if path != prefix and not path.startswith(f"{prefix}/"):
            return path
        bare = path.removeprefix(prefix) or "/"
        return path if self._leads(path) and not self._leads(bare) else bare

    def _forwarded(self, scope: Scope) -> dict[bytes, str]:
        """What follows `X-Forwarded-` in headers of a trusted proxy, in lower case, and what it says; of several headers of
        a name or several values in one, none can be told to be the trusted proxy's."""
        client = scope.get("client")
        if not self._trusted or client is None or not self._is_trusted(client[0]):
            return {}
        found: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name.lower().startswith(b"x-forwarded-"):
                found.setdefault(name.lower().removeprefix(b"x-forwarded-"), []).append(value.decode("latin-1").strip())
        return {name: values[0] for name, values in found.items() if len(values) == 1 and "," not in values[0]}

    def _is_trusted(self, client: str) -> bool:
        try:
            address = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address  # how a socket for both kinds shows the older kind
        return any(address in network for network in self._trusted)


def route_path(scope: Scope) -> str:
    """The path by which routes are found, without the prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
