"""`/docs` needs no other host, and no key for itself; what it shows is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from streambed import Engine
from streambed.server.reference import FILES
from tests.server.conftest import Live, Servers

OWN = sorted(path for path in FILES.iterdir() if path.is_file())


@pytest.fixture(scope="module")
def keyed(engine: Engine) -> Iterator[Live]:
    servers = Servers()
    yield servers.start(engine, keys=("key",))
    servers.stop()


@pytest.fixture
def browser(keyed: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=keyed.url, timeout=60, trust_env=False) as client:
        yield client


def test_the_page_is_open_and_its_document_is_not(browser: httpx.Client) -> None:
    page = browser.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "unsafe" not in page.headers["content-security-policy"]
    for name in re.findall(r'(?:href|src)="\./((?:docs|playground)/[^"]+)"', page.text):
        reply = browser.get(f"/{name}")
        assert reply.status_code == 200, name
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert browser.get("/openapi.json").status_code == 401
    browser.post("/playground/key", json={"api_key": "key"})
    assert browser.get("/openapi.json").status_code == 200, "the cookie of the page will do"
    assert browser.get("/docs/", follow_redirects=True).text == page.text
    assert browser.get("/docs/index.html", follow_redirects=True).text == page.text


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_own_assets_alone(path: Any) -> None:
    text = path.read_text("utf-8")
    assert not re.search(r"https?://|(?<!:)//[a-z]+\.[a-z]", text)
    assert not re.search(r"\sstyle\s*=|\son[a-z]+\s*=|<style|<script(?![^>]*\ssrc=)", text)


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        for each in value.values():
            yield from refs(each)
    elif isinstance(value, list):
        for each in value:
            yield from refs(each)


def test_the_document_is_whole(keyed: Live, live: Live) -> None:
    """References lead somewhere, parameters of paths are named, and who needs a key is told."""
    document = keyed.client.get("/openapi.json").json()
    found = set(refs(document))
    assert found
    for ref in found:
        place = document
        for step in ref.removeprefix("#/").split("/"):
            place = place[step]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path
            assert operation["description"].startswith(operation["summary"])
            assert len(operation["summary"]) > 12, "it says what the route does"
    assert "/v1/models/{model}" in document["paths"]
    (name,) = document["components"]["securitySchemes"]
    assert document["components"]["securitySchemes"][name] | {"description": ""} == {
        "type": "http",
        "scheme": "bearer",
        "description": "",
    }
    assert document["security"] == [{name: []}]
    assert document["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in document["paths"]["/info"]["get"]
    without = live.client.get("/openapi.json").json()
    assert "security" not in without
    assert "securitySchemes" not in without["components"]
