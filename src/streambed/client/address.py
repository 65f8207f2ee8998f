"""Where a server is and how to reach it: URL, key, certificates, and no proxy on the way to this machine itself."""

import ipaddress
import os
import ssl
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import connect

from streambed.errors import SettingsError

DEFAULT_URL = "http://127.0.0.1:30000"
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""Those of httpx itself."""
Verify = bool | str | os.PathLike[str] | ssl.SSLContext
"""Whether to check a server's certificate; a file or folder of authorities to trust, or an `ssl.SSLContext` that
decides everything."""
Certificate = str | os.PathLike[str] | tuple[str | os.PathLike[str], ...]
"""A client's own: a file with certificate and key, or (certificate, key), or (certificate, key, password)."""


class Address:
    """The address of one server."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        verify: Verify = True,
        cert: Certificate | None = None,
    ) -> None:
        """As for `AsyncClient`. Raises SettingsError, in one line that names the argument."""
        expected = f"the server's URL is {base_url!r}; one such as {DEFAULT_URL} is expected"
        try:
            parts = urlsplit(base_url)
            host, _ = parts.hostname, parts.port
        except (ValueError, AttributeError, TypeError):
            raise SettingsError(expected) from None
        if parts.scheme not in ("http", "https") or not isinstance(base_url, str) or not host:
            raise SettingsError(expected)
        if api_key is not None and not (isinstance(api_key, str) and api_key.isascii() and api_key.isprintable()):
            raise SettingsError("api_key is no string of printable ASCII characters")
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._is_here = is_loopback(host)
        secure = parts.scheme == "https"
        self._tls = _context(verify, cert) if secure or verify is not True or cert is not None else None

    def open_http(self, timeout: float, limits: httpx.Limits = LIMITS) -> httpx.AsyncClient:
        """A pool of connections for requests. limits: how many; further requests wait for one."""
        verify = True if self._tls is None else self._tls
        # httpx does not apply the environment's proxies to a transport that is given.
        transport = httpx.AsyncHTTPTransport(verify=verify, limits=limits) if self._is_here else None
        try:
            return httpx.AsyncClient(
                base_url=self.url,
                headers=self._headers,
                timeout=timeout,
                verify=verify,
                limits=limits,
                transport=transport,
            )
        except (ImportError, ValueError) as error:
            raise SettingsError(f"the environment's proxy cannot be used: {error}") from None

    def connect(self, timeout: float) -> connect:
        """A WebSocket for streams, to be opened by `async with`. timeout: seconds to open it."""
        return connect(
            self.stream_url,
            additional_headers=self._headers,
            open_timeout=timeout,
            close_timeout=1.0,
            max_size=None,
            compression=None,
            proxy=None if self._is_here else True,
            ssl=self._tls if self.stream_url.startswith("wss:") else None,
        )

    @property
    def stream_url(self) -> str:
        """URL of the WebSocket."""
        return f"ws{self.url.removeprefix('http')}/v1/embeddings"


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine: a loopback address, `localhost`, or the address that means all of its own."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _context(verify: Verify, cert: Certificate | None) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        context = verify
    elif isinstance(verify, bool):
        context = httpx.create_ssl_context(verify=verify)
    else:
        try:
            path = os.fspath(verify)
            folder = os.path.isdir(path)
            context = ssl.create_default_context(cafile=None if folder else path, capath=path if folder else None)
        except (OSError, TypeError) as error:
            raise SettingsError(
                f"verify is {verify!r}; True, False, a file or folder of certificates, or an SSLContext is expected: "
                f"{error}"
            ) from None
    if cert is not None:
        _load_own(context, cert)
    return context


def _load_own(context: ssl.SSLContext, cert: Certificate) -> None:
    files = cert if isinstance(cert, tuple) else (cert,)
    try:
        if not 1 <= len(files) <= 3:
            raise TypeError(f"it has {len(files)} parts")
        certificate, key = os.fspath(files[0]), os.fspath(files[1]) if len(files) > 1 else None
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, str(files[2]) if len(files) == 3 else "")
    except (OSError, TypeError) as error:
        raise SettingsError(
            "cert cannot be used; a file, (certificate, key) or (certificate, key, password) is expected: "
            f"{' '.join(str(error).split())}"
        ) from None
