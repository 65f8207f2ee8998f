"""The keys that there are, where they come from, and what becomes of them when their file changes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from streambed.errors import SettingsError
from streambed.server.keyring import Key, Keyring, Quota
from streambed.settings import Settings

FILE = """
[search]
key = "search-key"

[chat]
key = ["chat-new", "chat-old"]
requests_per_second = 5
tokens_per_second = 1000.5
sessions = 3
sockets = 0
body_bytes = "2MiB"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (file := tmp_path / "keys.toml").write_text(FILE)
    return file


def open_ring(path: Path, *keys: str, key_requests_per_second: float | None = None) -> Keyring:
    return Keyring(Settings(api_keys=str(path), key_requests_per_second=key_requests_per_second), keys)


def find(ring: Keyring, text: str) -> Key:
    found = ring.find(text.encode())
    assert found is not None
    return found


def test_without_keys_everybody_is_the_same_owner() -> None:
    ring = Keyring(Settings())
    assert ring.is_open
    assert not ring.many()
    assert find(ring, "anything") == find(ring, "") == Key(b"", "", "", Quota(sessions=1000))
    assert ring.present(find(ring, "")) is not None


def test_names_and_quotas(path: Path) -> None:
    ring = open_ring(path, "plain", key_requests_per_second=7)
    assert not ring.is_open
    assert ring.many()
    assert find(ring, "search-key").quota == Quota(7, None, 1000)
    new, old = find(ring, "chat-new"), find(ring, "chat-old")
    assert (new.name, new.owner) == (old.name, old.owner) == ("chat", "name:chat")
    assert new.quota == old.quota == ring.quota("name:chat") == Quota(5, 1000.5, 3, 0, 2 << 20)
    assert find(ring, "plain").name == ""
    assert ring.names == {"name:search": "search", "name:chat": "chat"}
    assert ring.find(b"search-keY") is None
    assert ring.find(b"") is None
    assert ring.quota("who was here once") == Quota(7, None, 1000)


def test_keys_are_not_kept(path: Path) -> None:
    ring = open_ring(path, "plain")
    assert "search-key" not in repr(vars(ring))
    assert "plain" not in repr(vars(ring))


WRONG = {
    "": "it holds no key",
    "key = 'a'": "key stands alone; a table is expected",
    "[a]": "[a] key: Field required",
    "[a]\nkey = ''": "[a] key is empty, or has spaces",
    "[a]\nkey = []": "[a] key is empty, or has spaces",
    "[a]\nkey = 'a b'": "[a] key is empty, or has spaces",
    "[a]\nkey = 'é'": "[a] key is empty, or has spaces or characters beyond ASCII",
    "[a]\nkey = 5": "[a] key",
    "[a]\nkey = 'k'\nspeed = 1": "[a] speed: Extra inputs are not permitted",
    "[a]\nkey = 'k'\nsessions = -1": "[a] sessions: Input should be greater than or equal to 0",
    "[a]\nkey = 'k'\nrequests_per_second = 0": "[a] requests_per_second: Input should be greater than 0",
    "[a]\nkey = 'k'\nrequests_per_second = nan": "[a] requests_per_second: ",
    "[a]\nkey = 'k'\ntokens_per_second = inf": "[a] tokens_per_second: ",
    "[a]\nkey = 'k'\nbody_bytes = 'much'": "[a] body_bytes: 'much' is no size",
    "['a b']\nkey = 'k'": "a name has 1 to 64 letters",
    "[a]\nkey = 'k'\n[b]\nkey = 'k'": "[b] has a key that is there twice",
    "[a]\nkey = 'plain'": "[a] has a key that is there twice",
    "[a]\nkey = 'k'\n[a]\nkey = 'l'": "at line 3",
    "[a": "Expected ']' at the end of a table",
    "a" * (5 << 20): "it is larger",
    "\n".join(f"[n{n}]\nkey = 'k{n}'" for n in range(1001)): "it has 1,001 names; the limit is 1,000",
}


@pytest.mark.parametrize("text", WRONG, ids=[f"{n}" for n in range(len(WRONG))])
def test_what_makes_no_sense_is_said_in_one_line(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        open_ring(path, "plain")
    assert str(caught.value).startswith(f"--api-keys {path}: ")
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--api-keys .*: cannot be read: No such file"):
        open_ring(tmp_path / "nothing")
    with pytest.raises(SettingsError, match=r"--api-keys .*: cannot be read: Is a directory"):
        open_ring(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"it is not UTF-8"):
        open_ring(tmp_path / "bytes")


def test_read_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "streambed")
    ring = open_ring(path, "plain")
    told: list[int] = []
    ring.on_change.append(lambda: told.append(1))
    old, search, plain = find(ring, "chat-old"), find(ring, "search-key"), find(ring, "plain")
    path.write_text("[chat]\nkey = 'chat-newest'\nsessions = 9\n")
    ring.reload()
    assert told == [1]
    assert caplog.messages == ["keys: 2, of which 1 are new; 3 are no longer valid"]
    assert ring.present(old) is ring.present(search) is None
    assert ring.present(plain) == plain
    assert find(ring, "chat-newest").owner == old.owner
    assert ring.quota(old.owner).sessions == 9
    assert ring.names == {"name:chat": "chat"}


@pytest.mark.parametrize("text", ["", "[a", "[a]\nkey = ''", None])
def test_a_file_that_becomes_wrong_changes_nothing(
    path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    ring = open_ring(path)
    ring.on_change.append(lambda: pytest.fail("nothing has changed"))
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    ring.reload()
    assert find(ring, "search-key").name == "search"
    assert caplog.messages[0].startswith(f"the keys stay as they were: --api-keys {path}: ")
    assert len(caplog.messages) == 1
