"""Who asks: the key of a request or handshake, or the cookie of a visit that stands for one."""

import hashlib
import hmac
from dataclasses import dataclass

from starlette.types import Scope

from streambed.errors import Unauthorized
from streambed.origins import same_host
from streambed.server.guard import is_open
from streambed.server.layer import Layer
from streambed.server.playground import Visits
from streambed.server.subprotocol import take_key


@dataclass(eq=False)
class Keys(Layer):
    """Sets `owner` in the scope's state, under which KV is shared: a digest of the key, never the key."""

    keys: tuple[bytes, ...]
    visits: Visits

    def check(self, scope: Scope) -> None:
        if scope["type"] == "websocket":
            scope["state"]["owner"] = self._check_key(scope["state"]["headers"], take_key(scope))
        elif scope["method"] != "OPTIONS" and not is_open(scope):  # a preflight carries no key and reads nothing
            scope["state"]["owner"] = self._check_key(scope["state"]["headers"])

    def _check_key(self, headers: dict[bytes, bytes], offered: bytes | None = None) -> str:
        """The owner. offered: a key that came otherwise; `Authorization` wins, and both win over a cookie."""
        if not self.keys:
            return ""
        if b"authorization" not in headers:
            owner = self._visitor(headers) if offered is None else self.owner_of(offered)
            if owner is not None:
                return owner
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        owner = self.owner_of(given.strip())
        if scheme.lower() != b"bearer" or owner is None:
            raise Unauthorized("a valid API key is needed: Authorization: Bearer <key>")
        return owner

    def owner_of(self, given: bytes) -> str | None:
        """The owner whose key this is; where none is asked for, everybody is the same one."""
        if not self.keys:
            return ""
        matches = [
            hmac.compare_digest(given, key) for key in self.keys
        ]  # with all, so that the time does not tell which one matches
        return hashlib.sha256(given).hexdigest() if any(matches) else None

    def _visitor(self, headers: dict[bytes, bytes]) -> str | None:
        """The owner of the cookie. Where the browser says which page sends it, that page must be ours."""
        site = headers.get(b"sec-fetch-site", b"same-origin")
        origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
        if site != b"same-origin" or (b"origin" in headers and not same_host(origin, host)):
            return None
        return self.visits.owner(headers.get(b"cookie", b"").decode("latin-1"))
