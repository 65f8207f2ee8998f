"""The keys that requests may carry: whose they are, what they are called, and what each may take.

They come from `--api-key`, without names, and from the file of `--api-keys` (docs/operations.md), which is read again on
SIGHUP. The keys themselves are not kept, only their digests.
"""

import hashlib
import logging
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streambed.errors import SettingsError
from streambed.limits import MAX_NAMED_KEYS
from streambed.settings import Settings, parse_size

logger = logging.getLogger("streambed")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class Quota:
    """What one owner may take; of what is None, there is no bound but the server's own."""

    requests_per_second: float | None = None
    tokens_per_second: float | None = None
    sessions: int | None = None
    sockets: int | None = None
    body_bytes: int | None = None


@dataclass(frozen=True)
class Key:
    """One that requests may carry."""

    digest: bytes
    owner: str
    """To whom sessions and KV belong: a key's digest, or its name, so that it can be replaced by another one."""
    name: str
    """By which logs and metrics know it; empty where it has none."""
    quota: Quota


class Entry(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    key: str | list[str] = Field(description="The key, or several that mean the same while one replaces another.")
    requests_per_second: float | None = Field(None, gt=0, allow_inf_nan=False)
    tokens_per_second: float | None = Field(None, gt=0, allow_inf_nan=False)
    sessions: int | None = Field(None, ge=0)
    sockets: int | None = Field(None, ge=0)
    body_bytes: int | str | None = None


class Keyring:
    """The keys as they are now. Belongs to the event loop."""

    def __init__(self, settings: Settings, keys: tuple[str, ...] = ()) -> None:
        """keys: those without names. Without any of either, everybody may ask, and is the same owner.

        Raises:
            SettingsError: the file cannot be read or makes no sense; in one line.
        """
        self._path = None if settings.api_keys is None else Path(settings.api_keys)
        self._common = Quota(
            settings.key_requests_per_second, settings.key_tokens_per_second, settings.max_sessions,
            settings.key_sockets, settings.key_body_bytes,
        )  # fmt: skip
        self.anybody = Key(b"", "", "", self._common)
        """Who asks where no key is asked for."""
        self._unnamed = {
            each.digest: each
            for each in (Key(_digest(key), _digest(key).hex(), "", self._common) for key in map(str.encode, keys))
        }
        self.on_change: list[Callable[[], None]] = []
        """Called after the keys have changed."""
        self._keys: dict[bytes, Key] = {}
        self.owners: dict[str, Key] = {}
        """A key of each owner."""
        self.names: dict[str, str] = {}
        """The names that there are, by owner."""
        self._set(self._read())

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return not self._keys

    def many(self) -> bool:
        """Whether there are several owners."""
        return len(self.owners) > 1

    def find(self, given: bytes) -> Key | None:
        """The key that this is. What is compared are digests, of which nobody can choose how they begin."""
        return self.anybody if self.is_open else self._keys.get(_digest(given))

    def present(self, key: Key) -> Key | None:
        """A key as it is now, if it still is one."""
        return key if self.is_open else self._keys.get(key.digest)

    def quota(self, owner: str) -> Quota:
        """What an owner may take."""
        key = self.owners.get(owner)
        return self._common if key is None else key.quota

    def reload(self) -> None:
        """Reads the file again. One that makes no sense changes nothing, and is said in the log."""
        try:
            read = self._read()
        except SettingsError as error:
            logger.error("the keys stay as they were: %s", error)
            return
        before = self._keys
        self._set(read)
        new, gone = (len(one.keys() - other.keys()) for one, other in ((self._keys, before), (before, self._keys)))
        logger.info("keys: %d, of which %d are new; %d are no longer valid", len(self._keys), new, gone)
        for listener in self.on_change:
            listener()

    def _set(self, named: dict[bytes, Key]) -> None:
        self._keys = self._unnamed | named
        self.owners = {key.owner: key for key in self._keys.values()}
        self.names = {owner: key.name for owner, key in self.owners.items() if key.name}

    def _read(self) -> dict[bytes, Key]:
        """Raises SettingsError."""
        if self._path is None:
            return {}
        found: dict[bytes, Key] = {}
        try:
            for name, table in _tables(self._path).items():
                for key in self._keys_of(name, table):
                    if key.digest in found or key.digest in self._unnamed:
                        raise ValueError(f"[{name}] has a key that is there twice")
                    found[key.digest] = key
            if not found:
                raise ValueError("it holds no key")
        except OSError as error:
            raise SettingsError(f"--api-keys {self._path}: cannot be read: {error.strerror}") from None
        except ValueError as error:  # that of tomllib, too
            raise SettingsError(f"--api-keys {self._path}: {error}") from None
        return found

    def _keys_of(self, name: str, table: object) -> list[Key]:
        """Raises ValueError, which never repeats a key."""
        if not _NAME.fullmatch(name):
            raise ValueError("a name has 1 to 64 letters, digits and . _ -")
        if not isinstance(table, dict):
            raise ValueError(f"{name} stands alone; a table is expected: [name], and below it key = ...")
        try:
            entry = Entry.model_validate(table)
            most = None if entry.body_bytes is None else parse_size(str(entry.body_bytes))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"[{name}] {place}: {first['msg']}".replace(" :", ":")) from None
        except ValueError as error:
            raise ValueError(f"[{name}] body_bytes: {error}") from None
        given = [entry.key] if isinstance(entry.key, str) else entry.key
        if not given or any(not key or not key.isascii() or not key.isprintable() or " " in key for key in given):
            raise ValueError(f"[{name}] key is empty, or has spaces or characters beyond ASCII")
        own = entry.model_dump(exclude_none=True, exclude={"key", "body_bytes"})
        quota = replace(self._common, **own, **({} if most is None else {"body_bytes": most}))
        return [Key(_digest(key.encode()), f"name:{name}", name, quota) for key in given]


def _tables(path: Path) -> dict[str, object]:
    """Raises OSError, ValueError."""
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError("it is larger than any file of keys")
    try:
        tables = tomllib.loads(text.decode())
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if len(tables) > MAX_NAMED_KEYS:
        raise ValueError(f"it has {len(tables):,} names; the limit is {MAX_NAMED_KEYS:,}")
    return tables


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
