"""Who asks: the key of a request or handshake, or the cookie of a visit that stands for one."""

from dataclasses import dataclass

from starlette.types import Scope

from streambed.errors import Unauthorized
from streambed.origins import same_host
from streambed.server.guard import is_open
from streambed.server.keyring import Key, Keyring
from streambed.server.layer import Layer
from streambed.server.playground import Visits
from streambed.server.subprotocol import take_key


@dataclass(eq=False)
class Keys(Layer):
    """Sets `key` and `owner` in the scope's state."""

    keyring: Keyring
    visits: Visits

    def check(self, scope: Scope) -> None:
        if scope["type"] == "websocket":
            key = self._check_key(scope["state"]["headers"], take_key(scope))
        elif scope["method"] == "OPTIONS" or is_open(scope):  # a preflight carries no key and reads nothing
            return
        else:
            key = self._check_key(scope["state"]["headers"])
        scope["state"].update(key=key, owner=key.owner)

    def _check_key(self, headers: dict[bytes, bytes], offered: bytes | None = None) -> Key:
        """offered: a key that came otherwise; `Authorization` wins, and both win over a cookie."""
        if self.keyring.is_open:
            return self.keyring.anybody
        if b"authorization" not in headers:
            key = self._visitor(headers) if offered is None else self.keyring.find(offered)
            if key is not None:
                return key
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        key = self.keyring.find(given.strip())
        if key is None or scheme.lower() != b"bearer":
            raise Unauthorized("a valid API key is needed: Authorization: Bearer <key>")
        return key

    def _visitor(self, headers: dict[bytes, bytes]) -> Key | None:
        """The key for which a cookie stands. Where the browser says which page sends it, that page must be ours."""
        site = headers.get(b"sec-fetch-site", b"same-origin")
        origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
        if site != b"same-origin" or (b"origin" in headers and not same_host(origin, host)):
            return None
        key = self.visits.key(headers.get(b"cookie", b"").decode("latin-1"))
        return None if key is None else self.keyring.present(key)
