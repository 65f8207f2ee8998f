"""Addresses that can be opened, for what a server listens on."""

import ipaddress
import socket


def urls(scheme: str, host: str, port: int) -> tuple[str, str | None]:
    """Where this machine finds the server, and, if it listens on every address, where others do.

    host: an address, as `getsockname` has it; `0.0.0.0` and `::` mean every address, and cannot be opened.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if not address.is_unspecified:
        return _url(scheme, host, port), None
    return _url(scheme, "::1" if address.version == 6 else "127.0.0.1", port), _url(scheme, _outward(), port)


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _outward() -> str:
    """The address from which this machine reaches others, or its name where it reaches none."""
    for family, example in (
        (socket.AF_INET, "192.0.2.1"),
        (socket.AF_INET6, "2001:db8::1"),
    ):  # reserved for documentation: nobody has them
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((example, 9))  # chooses a route; sends nothing
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return socket.gethostname()
