"""Origins of web pages in the one form in which they compare: as browsers write them (WHATWG, "origin").

`HTTPS://Example.org:443/` and `https://example.org` are one origin. Whatever is not an origin is refused with the reason.
"""

import ipaddress
import re

import idna

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SHAPE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
_HOST = re.compile(r"[a-z0-9._-]+")


def canonical_origin(text: str) -> str:
    """Scheme and host in lower case, names of other scripts as IDNA has them, no default port. Raises ValueError, with
    what is wrong."""
    if text == "null":
        raise ValueError("null is what every sandboxed page and local file is called")
    if re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("an origin has no spaces")
    scheme, mark, rest = text.partition("://")
    if not mark:
        raise ValueError("it begins with a scheme, as in https://example.org")
    for sign, name in (("@", "user"), ("?", "query"), ("#", "fragment")):
        if sign in rest:
            raise ValueError(f"an origin has no {name}")
    rest = rest.removesuffix("/")
    if "/" in rest or "\\" in rest:
        raise ValueError("an origin has no path")
    found = _SHAPE.fullmatch(f"{scheme}://{rest}")
    if found is None:
        raise ValueError("scheme, host and port are expected, as in https://example.org:8443")
    scheme = found["scheme"].lower()
    if scheme in ("ws", "wss"):
        raise ValueError(f"pages are at {scheme.replace('ws', 'http')}://, also those that open a WebSocket")
    host = _canonical_host(found["host"])
    port = (found["port"] or "").lstrip("0")
    if found["port"] and not 1 <= int(port or 0) <= 65535:
        raise ValueError(f"{found['port'][:20]} is no port")
    if not port or port == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def same_host(origin: str, host: str) -> bool:
    """Whether a page of this origin is of the host that a Host header names. The header says no scheme, and who ended TLS
    before us changed it: so the scheme does not count, but for the default port that it implies."""
    try:
        return canonical_origin(origin) == canonical_origin(f"{origin.partition('://')[0]}://{host}")
    except ValueError:
        return False


def _canonical_host(host: str) -> str:
    if not host:
        raise ValueError("it names no host")
    try:
        if host.startswith("["):
            return f"[{ipaddress.IPv6Address(host[1:-1])}]"
        if not host.isascii():
            host = idna.encode(host, uts46=True).decode()
        host = host.lower()
        if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.removesuffix(".").rpartition(".")[2]):
            return str(ipaddress.IPv4Address(host))  # browsers take what ends in a number for an address
    except (ValueError, UnicodeError):  # idna.IDNAError is the latter
        raise ValueError(f"{host[:80]} is neither a host name nor an address") from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host[:80]} is no host name")
    return host
