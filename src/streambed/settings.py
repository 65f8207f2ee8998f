"""The server's settings: frozen, validated once. Every field is a flag, an environment variable and a line of help.

`model` is `--model` and `STREAMBED_MODEL`, and so on; `cli/serve.py` and `docs/settings.md` are made from this class. A
field with `group=` begins a heading there; those after it stand under the same heading.
"""

import ipaddress
import re
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

from streambed.errors import SettingsError
from streambed.origins import canonical_origin


def _setting(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True)
class Settings:
    """Raises SettingsError, in one line that names the flag, where a value makes no sense."""

    model: str = _setting(
        "builtin", "Model: builtin, a directory, or a hub id such as Qwen/Qwen3-Embedding-0.6B.", group="Model"
    )
    revision: str | None = _setting(None, "Branch, tag or commit of a hub model.")
    allow_unknown_config: bool = _setting(
        False, "Load a checkpoint even if its files have unknown keys, with a warning that names them."
    )
    served_model_name: tuple[str, ...] = _setting((), "Name of the model in requests (repeatable).")
    host: str = _setting("127.0.0.1", "Address to listen on.", group="Address and keys")
    port: int = _setting(30000, "Port to listen on; 0 takes a free one.")
    api_key: tuple[str, ...] = _setting(
        (),
        "Key that requests must carry (repeatable). If none is given, one is generated unless the address is loopback.",
        secret=True,
    )
    api_keys: str | None = _setting(
        None, "TOML file of keys with names and quotas, read again on SIGHUP. See docs/operations.md."
    )
    no_auth: bool = _setting(False, "Serve without a key, whatever the address.")
    tls_cert: str | None = _setting(None, "TLS certificate file (PEM).")
    tls_key: str | None = _setting(None, "TLS private key file (PEM).")
    allow_origin: tuple[str, ...] = _setting(
        (),
        "Origin of web pages that may call the server, such as https://example.org (repeatable); * is any.",
        group="Pages and proxies",
    )
    root_path: str = _setting(
        "", "Path under which a proxy serves this server, such as /embeddings; requests may come with it or without it."
    )
    trusted_proxy: tuple[str, ...] = _setting(
        (), "Address or network of a proxy whose X-Forwarded-Prefix, -Proto and -Host are used (repeatable)."
    )
    keep_alive: int = _setting(
        75, "Seconds that an idle connection is kept open; a proxy in front must keep its own for less."
    )
    dtype: str = _setting("auto", "Number format: auto, float32 or bfloat16.", group="Compute")
    device: str = _setting("auto", "Device: auto, cpu, cuda, cuda:N or mps (not run by us).")
    kernels: Literal["auto", "torch"] = _setting(
        "auto", "Kernels on a CPU: native ones, built at the first start, or torch alone."
    )
    quantize: Literal["none", "int8"] = _setting(
        "none", "int8: matrices as integers; on a CPU half the memory and more speed, a little less exact."
    )
    kv_dtype: Literal["auto", "int8"] = _setting("auto", "Number format of KV: the model's own, or int8.")
    threads: int | None = _setting(None, "CPU threads to compute with; by default one for each usable core.")
    kv_memory: int | None = _setting(
        None, "Memory for KV, such as 512MiB or 4GiB; by default a quarter of the machine's memory.", size=True
    )
    max_batch_tokens: int | None = _setting(
        None, "Most rows of one step; by default as many as run in a tenth of a second."
    )
    special_tokens: Literal["text", "parse"] = _setting(
        "text",
        "How <|endoftext|> and other special tokens inside a text are read: as plain text, or as tokens.",
        group="Texts and vectors",
    )
    long_input: Literal["merge", "truncate", "error"] = _setting(
        "merge",
        "What to do with a text beyond the window: merge its segments' vectors, truncate it, or refuse it (error).",
    )
    instruction_template: str | None = _setting(
        None,
        "Template of an instruction, with the placeholder {instruction} and \\n for a new line; by default that of the "
        "checkpoint's prompts, or Qwen's.",
    )
    reducer: tuple[str, ...] = _setting(
        (), "NAME=PATH of a folder from `streambed reduce fit`, for requests to choose (repeatable)."
    )
    accept_token_ids: bool = _setting(False, "Accept token ids as input (they must be this model's own).")
    ignore_unknown_fields: bool = _setting(
        False,
        "Ignore unknown fields instead of refusing them; the header X-Ignored-Fields of the reply names them.",
    )
    max_body: int = _setting(16 << 20, "Largest request body.", size=True, group="Limits")
    max_bodies: int | None = _setting(
        None,
        "Bytes of all request bodies at once, of which one of several keys may take half; by default eight of the largest.",
        size=True,
    )
    max_requests: int = _setting(512, "Requests in progress at once; more are refused with 429.")
    timeout: float = _setting(600.0, "Seconds after which a request is given up with 504.")
    drain: float = _setting(30.0, "Seconds that requests in progress have to end after SIGTERM.")
    key_requests_per_second: float | None = _setting(
        None, "HTTP requests and handshakes a second that one key may make; more are refused with 429.",
        group="Quotas of a key", unit="N",
    )  # fmt: skip
    key_tokens_per_second: float | None = _setting(
        None, "Tokens a second that one key may have computed; who had more waits, or is refused with 429.", unit="N"
    )
    key_sockets: int | None = _setting(None, "WebSockets that one key may have open at once.")
    key_body_bytes: int | None = _setting(
        None, "Bytes of request bodies that one key may have in flight, such as 64MiB.", size=True
    )
    session_ttl: float = _setting(600.0, "Seconds that a session lives without a client.", group="Sessions")
    max_sessions: int = _setting(1000, "Sessions that one key may have at once.")
    max_sessions_per_socket: int = _setting(100, "Sessions that one WebSocket may carry at once.")
    max_session_characters: int = _setting(1 << 18, "Characters that a session's text may have.")
    max_sockets: int = _setting(1000, "WebSockets open at once; more are refused with 429.")
    socket_idle: float = _setting(3600.0, "Seconds after which a WebSocket that sends nothing is closed.")
    socket_life: float = _setting(86400.0, "Seconds after which a WebSocket is closed; its sessions can be resumed.")
    journal: str | None = _setting(
        None, "File that keeps the text of sessions, so that they outlive the process.", group="Journal"
    )
    journal_sync: Literal["full", "normal"] = _setting(
        "full", "What an acknowledged change survives: loss of power (full), or the end of the process (normal)."
    )
    metrics_port: int | None = _setting(
        None,
        "Port of a separate listener for /metrics, which needs no key; by default /metrics is on --port.",
        group="Metrics and logs",
    )
    metrics_host: str = _setting("127.0.0.1", "Address of the listener of --metrics-port.")
    log_format: Literal["console", "json"] = _setting("console", "Log lines for people, or one JSON object each.")

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port is {self.port}; 0 to 65535 is expected")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise SettingsError(f"--metrics-port is {self.metrics_port}; 0 to 65535 is expected")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("--tls-cert and --tls-key go together")
        if self.no_auth and (self.api_key or self.api_keys is not None):
            raise SettingsError(f"--no-auth and --api-key{'' if self.api_key else 's'} exclude each other")
        if any(not key or not key.isascii() or key != key.strip() for key in self.api_key):
            raise SettingsError("--api-key is empty, or has spaces around it or characters beyond ASCII")
        for name, least in (
            ("threads", 1),
            ("max_batch_tokens", 1),
            ("max_body", 1024),
            ("max_requests", 1),
            ("max_sessions", 1),
            ("max_sessions_per_socket", 1),
            ("max_session_characters", 1),
            ("max_sockets", 0),
            ("key_sockets", 0),
            ("key_body_bytes", 1024),
            ("keep_alive", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"--{name.replace('_', '-')} is {value}; at least {least} is expected")
        if self.body_memory < 2 * self.max_body:
            raise SettingsError(f"--max-bodies is {self.body_memory}; at least twice --max-body is expected")
        for name in ("timeout", "drain", "session_ttl", "socket_idle", "socket_life"):
            if not 0 < getattr(self, name) < float("inf"):
                flag = f"--{name.replace('_', '-')}"
                raise SettingsError(f"{flag} is {getattr(self, name)}; a positive number of seconds is expected")
        for name in ("key_requests_per_second", "key_tokens_per_second"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SettingsError(f"--{name.replace('_', '-')} is {value}; a positive number is expected")
        names = [name for name, _ in self.reducers]
        if not all(names) or not all(path for _, path in self.reducers) or len(set(names)) < len(names):
            raise SettingsError(f"--reducer is {', '.join(self.reducer)}; NAME=PATH with different names is expected")
        object.__setattr__(self, "allow_origin", tuple(_origin(each) for each in self.allow_origin))
        object.__setattr__(self, "root_path", self.root_path.rstrip("/"))
        if self.root_path and not is_prefix(self.root_path):
            raise SettingsError(f"--root-path is {self.root_path!r}; a path such as /embeddings is expected")
        for network in self.trusted_proxy:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise SettingsError(
                    f"--trusted-proxy is {network!r}; an address or a network such as 10.0.0.0/8 is expected"
                ) from None

    @property
    def reducers(self) -> list[tuple[str, str]]:
        """Names and paths of `reducer`."""
        pairs = (each.partition("=") for each in self.reducer)
        return [(name, path) for name, _, path in pairs]

    @property
    def body_memory(self) -> int:
        """Bytes of all request bodies at once."""
        return 8 * self.max_body if self.max_bodies is None else self.max_bodies

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def groups() -> dict[str, list[Field[Any]]]:
    """The fields of Settings by their headings, in order."""
    found: dict[str, list[Field[Any]]] = {}
    heading = ""
    for each in fields(Settings):
        heading = each.metadata.get("group", heading)
        found.setdefault(heading, []).append(each)
    return found


def shown_default(setting: Field[Any]) -> str:
    """The default as one would write it, such as `16MiB`; empty where there is none, or it is off."""
    value: Any = setting.default
    if value is None or value is False or value in ((), ""):
        return ""
    return show_size(value) if setting.metadata.get("size") else str(value).removesuffix(".0")


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_prefix(path: str) -> bool:
    """Whether a path can stand before those of all routes: `/embeddings`, `/team/embeddings`."""
    steps = path.split("/")[1:]
    return path.startswith("/") and all(re.fullmatch(r"[A-Za-z0-9._~-]+", step) and step.strip(".") for step in steps)


def _origin(text: str) -> str:
    if text == "*":
        return text
    try:
        return canonical_origin(text)
    except ValueError as error:
        raise SettingsError(f"--allow-origin is {text!r}: {error}") from None


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `4GiB`, `1.5GB` or `1073741824`. Raises ValueError."""
    number = text.strip().lower()
    unit = number.lstrip("0123456789.")
    if unit.strip() not in _UNITS:
        raise ValueError(f"{text!r} is no size; write 512MiB or 4GiB")
    size = float(number.removesuffix(unit)) * _UNITS[unit.strip()]
    if not size < 1 << 63:
        raise ValueError("the size is larger than any memory")
    return int(size)


def show_size(size: int) -> str:
    """Bytes as `parse_size` reads them, in the largest unit that is exact: `16MiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and not size % _UNITS[unit.lower()]:
            return f"{size // _UNITS[unit.lower()]}{unit}"
    return str(size)
