"""A key in `Sec-WebSocket-Protocol`: the only header of a handshake that a script in a browser can set.

A page offers `streambed`, and beside it `streambed-api-key.` with the key in base64url. The answer takes `streambed`.
"""

import base64
import binascii
import re

from starlette.types import Scope

from streambed.errors import InvalidRequest

NAME = "streambed"
KEY = "streambed-api-key."
_HEADER = b"sec-websocket-protocol"


def take_key(scope: Scope) -> bytes | None:
    """The key that a handshake offers, if any; what is no base64url is no key of anybody's.

    Takes it out of the scope: nothing that comes after can log it or answer with it.

    Raises:
        InvalidRequest: several keys, or no `streambed` beside it, without which browsers end the connection.
    """
    offered: list[str] = scope.get("subprotocols", [])
    keys = [each.removeprefix(KEY) for each in offered if each.startswith(KEY)]
    if not keys:
        return None
    left = scope["subprotocols"] = [each for each in offered if not each.startswith(KEY)]
    scope["headers"] = [pair for pair in scope["headers"] if pair[0].lower() != _HEADER]
    scope["headers"].append((_HEADER, ", ".join(left).encode("latin-1")))
    if len(keys) > 1 or NAME not in left:
        raise InvalidRequest(f"one key is expected among the WebSocket's protocols, and {NAME} beside it")
    if not re.fullmatch(r"[A-Za-z0-9_-]*", keys[0]):
        return b""
    try:
        return base64.urlsafe_b64decode(keys[0] + "=" * (-len(keys[0]) % 4))
    except binascii.Error:
        return b""


def chosen(scope: Scope) -> str | None:
    """The protocol that the answer names."""
    return NAME if NAME in scope.get("subprotocols", []) else None
