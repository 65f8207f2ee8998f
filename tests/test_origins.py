"""Origins compare in one form, and what is none says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambed.origins import canonical_origin, same_host


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://example.org", "https://example.org"),
        ("https://example.org/", "https://example.org"),
        ("HTTPS://Example.ORG", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:80/", "http://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("https://example.org:08443", "https://example.org:8443"),
        ("https://example.org:", "https://example.org"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://[2001:DB8:0:0::1]:81", "http://[2001:db8::1]:81"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://faß.example", "https://xn--fa-hia.example"),
        ("https://例え.テスト:8443", "https://xn--r8jz45g.xn--zckzah:8443"),
        ("https://my_app.example", "https://my_app.example"),
        ("app://x", "app://x"),
        ("tauri://localhost", "tauri://localhost"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
    ],
)
def test_canonical(text: str, canonical: str) -> None:
    assert canonical_origin(text) == canonical
    assert canonical_origin(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "scheme"),
        ("example.org", "scheme"),
        ("localhost:80", "scheme"),
        ("//example.org", "scheme"),
        ("null", "null"),
        ("https://", "host"),
        ("https:///", "host"),
        ("https://:443", "host"),
        ("file:///home", "path"),
        ("https://example.org/app", "path"),
        ("https://example.org//", "path"),
        ("https://example.org\\app", "path"),
        ("https://example.org?a=b", "query"),
        ("https://example.org/#top", "fragment"),
        ("https://me@example.org", "user"),
        ("https://me:secret@example.org", "user"),
        ("https://*.example.org", "host"),
        ("*://example.org", "expected"),
        ("https://exam ple.org", "spaces"),
        (" https://example.org", "spaces"),
        ("https://example.org\n", "spaces"),
        ("https://example.org:port", "expected"),
        ("https://example.org:0", "port"),
        ("https://example.org:65536", "port"),
        ("https://a:1:2", "expected"),
        ("http://[::1", "expected"),
        ("http://[::g]", "address"),
        ("http://256.0.0.1", "address"),
        ("http://127.1", "address"),
        ("http://0x7f000001", "address"),
        ("https://%65xample.org", "host name"),
        ("https://exa\u2028mple.org", "host name"),
        ("wss://example.org", "https://"),
        ("ws://example.org", "http://"),
    ],
)
def test_what_is_none(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        canonical_origin(text)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=40) | st.text(alphabet="htps:/[].@?#019aZ-é*", max_size=30).map(lambda rest: f"https://{rest}"))
def test_one_form_or_a_reason(text: str) -> None:
    try:
        canonical = canonical_origin(text)
    except UnicodeError:
        pytest.fail("only what we raised may come")
    except ValueError:
        return
    assert canonical_origin(canonical) == canonical
    assert canonical.isascii()


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://127.0.0.1:30000", "127.0.0.1:30000", True),
        ("https://example.org", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("https://EXAMPLE.org:443", "Example.org", True),
        ("http://example.org", "example.org:443", False),
        ("http://[::1]:80", "[0:0:0:0:0:0:0:1]", True),
        ("https://example.org", "example.org.evil.example", False),
        ("https://example.org", "", False),
        ("", "", False),
        ("null", "null", False),
        ("https://", "", False),
        ("https://a@example.org", "a@example.org", False),
    ],
)
def test_same_host(origin: str, host: str, same: bool) -> None:
    assert same_host(origin, host) == same
