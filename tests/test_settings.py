"""Settings: what is accepted, what is refused, and sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from streambed.errors import SettingsError
from streambed.settings import Settings, groups, is_loopback, parse_size, show_size, shown_default


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"port": 0},
        {"port": 65535},
        {"tls_cert": "c", "tls_key": "k"},
        {"api_key": ("a", "b" * 1000, "!#$%&'*+-.^_`|~")},
        {"no_auth": True},
        {"threads": 1, "max_batch_tokens": 1, "max_body": 1024, "max_requests": 1},
        {"timeout": 0.001, "drain": 1e6},
        {"allow_origin": ("*", "https://example.org", "http://localhost:5173", "app://x")},
        {"host": "0.0.0.0"},
        {"root_path": "/team/embeddings", "trusted_proxy": ("127.0.0.1", "10.0.0.0/8", "::1", "fd00::/8")},
    ],
)
def test_accepted(values: dict[str, Any]) -> None:
    settings = Settings(**values)
    for name, value in values.items():
        assert getattr(settings, name) == value


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"port": -1}, "--port"),
        ({"port": 65536}, "--port"),
        ({"tls_cert": "c"}, "--tls-cert"),
        ({"tls_key": "k"}, "--tls-key"),
        ({"no_auth": True, "api_key": ("a",)}, "--no-auth"),
        ({"api_key": ("",)}, "--api-key"),
        ({"api_key": ("good", "")}, "--api-key"),
        ({"api_key": (" a",)}, "--api-key"),
        ({"api_key": ("a\n",)}, "--api-key"),
        ({"api_key": ("clé",)}, "--api-key"),
        ({"threads": 0}, "--threads"),
        ({"threads": -1}, "--threads"),
        ({"max_batch_tokens": 0}, "--max-batch-tokens"),
        ({"max_body": 1023}, "--max-body"),
        ({"max_body": 1 << 20, "max_bodies": (2 << 20) - 1}, "--max-bodies"),
        ({"max_requests": 0}, "--max-requests"),
        ({"timeout": 0}, "--timeout"),
        ({"timeout": -1.0}, "--timeout"),
        ({"timeout": float("inf")}, "--timeout"),
        ({"timeout": float("nan")}, "--timeout"),
        ({"drain": 0}, "--drain"),
        ({"drain": float("nan")}, "--drain"),
        ({"metrics_port": -1}, "--metrics-port"),
        ({"metrics_port": 65536}, "--metrics-port"),
        ({"reducer": ("small",)}, "--reducer"),
        ({"reducer": ("=path",)}, "--reducer"),
        ({"reducer": ("small=",)}, "--reducer"),
        ({"reducer": ("small=a", "small=b")}, "--reducer"),
        ({"allow_origin": ("example.org",)}, "--allow-origin"),
        ({"allow_origin": ("*", "localhost:80")}, "--allow-origin"),
        ({"allow_origin": ("",)}, "--allow-origin"),
        ({"allow_origin": ("null",)}, "--allow-origin"),
        ({"allow_origin": ("https://example.org/app",)}, "--allow-origin"),
        ({"allow_origin": ("https://me:secret@example.org",)}, "--allow-origin"),
        ({"keep_alive": 0}, "--keep-alive"),
        *(
            ({"root_path": path}, "--root-path")
            for path in ("sub", "//sub", "/a b", "/a/../b", "/a//b", "/a?b", "/%61")
        ),
        ({"trusted_proxy": ("proxy.example",)}, "--trusted-proxy"),
        ({"trusted_proxy": ("10.0.0.0/8", "10.0.0.0/33")}, "--trusted-proxy"),
        ({"trusted_proxy": ("",)}, "--trusted-proxy"),
    ],
)
def test_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings(**values)
    message = str(error.value)
    assert named in message
    assert "\n" not in message


def test_origins_are_canonical() -> None:
    settings = Settings(allow_origin=("HTTPS://Example.ORG:443/", "*", "http://Bücher.example:8080"))
    assert settings.allow_origin == ("https://example.org", "*", "http://xn--bcher-kva.example:8080")


def test_root_path_has_one_form() -> None:
    assert [Settings(root_path=path).root_path for path in ("/sub/", "/a/b.c", "/", "")] == ["/sub", "/a/b.c", "", ""]


def test_keys_are_not_in_the_message() -> None:
    with pytest.raises(SettingsError) as error:
        Settings(api_key=("sécret",))
    assert "cret" not in str(error.value)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_every_field_has_help() -> None:
    for field in dataclasses.fields(Settings):
        assert field.metadata["help"].endswith("."), field.name


def test_every_field_is_under_a_heading_and_each_heading_comes_once() -> None:
    found = groups()
    assert [field for each in found.values() for field in each] == list(dataclasses.fields(Settings))
    assert all(heading and len(each) < 13 for heading, each in found.items()), "a heading is for a few"
    assert sum("group" in field.metadata for field in dataclasses.fields(Settings)) == len(found)


def test_defaults_as_one_writes_them() -> None:
    shown = {field.name: shown_default(field) for each in groups().values() for field in each}
    expected = {"model": "builtin", "port": "30000", "timeout": "600", "max_body": "16MiB", "long_input": "merge"}
    assert {name: shown[name] for name in expected} == expected
    assert [shown[name] for name in ("revision", "api_key", "no_auth", "kv_memory", "threads")] == [""] * 5


@pytest.mark.parametrize("text", ["16MiB", "3GiB", "1KiB", "1025", "0", "1000000"])
def test_a_size_is_shown_as_it_is_read(text: str) -> None:
    assert show_size(parse_size(text)) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("1073741824", 1 << 30),
        ("512MiB", 512 << 20),
        ("512 MiB", 512 << 20),
        ("  512mib  ", 512 << 20),
        ("4GiB", 4 << 30),
        ("4gib", 4 << 30),
        ("4GB", 4 * 10**9),
        ("1.5GB", 1_500_000_000),
        ("1.5GiB", 3 << 29),
        (".5KiB", 512),
        ("2.KiB", 2048),
        ("7kb", 7000),
        ("7KiB", 7168),
        ("7MB", 7_000_000),
        ("12b", 12),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert isinstance(parse_size(text), int)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ".", "-1", "-1GiB", "+1", "1.2.3", "1,5GB", "1_000", "1e9", "0x10", "١", "inf", "nan", "ten"),
        *("GiB", "GiB1", "1GiB 2", "1TiB", "1K", "1 G"),
    ],
)
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


def test_parse_size_refuses_what_overflows() -> None:
    with pytest.raises(ValueError):
        parse_size("9" * 400)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "[::1]", "0:0:0:0:0:0:0:1"],
)
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert Settings(host=host).is_loopback


@pytest.mark.parametrize(
    "host",
    [
        *("", "0.0.0.0", "::", "[::]", "10.0.0.1", "128.0.0.1", "192.168.0.1", "example.org", "localhost.example.org"),
        *("127.0.0.1.example.org", "127.1", "2130706433", "0x7f000001", "localhost.", "127.0.0.1:80", "evil@127.0.0.1"),
    ],
)
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
    assert not Settings(host=host).is_loopback
