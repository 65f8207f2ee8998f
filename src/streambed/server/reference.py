"""`/docs`: the OpenAPI document in Swagger UI, whose files ship with us, and the document itself.

The page is open as the playground's is, and asks nobody but this server. The document needs the key, or the cookie that
stands for it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from streambed.server.guard import is_open
from streambed.server.playground import HEADERS, Page

FILES = Path(__file__).with_name("reference")
_SCHEME = {"type": "http", "scheme": "bearer", "description": "A key of this server."}


class Reference:
    """The handlers. keyed: whether requests need a key."""

    def __init__(self, app: FastAPI, keyed: bool) -> None:
        self._app = app
        self._keyed = keyed
        self._page = (FILES / "index.html").read_bytes()

    async def page(self, request: Request) -> Response:
        """The viewer."""
        return Response(self._page, media_type="text/html", headers=HEADERS)

    async def document(self, request: Request) -> Response:
        """The OpenAPI document."""
        document = describe(self._app, self._keyed)
        if prefix := request.scope.get("root_path"):
            document = {**document, "servers": [{"url": prefix}]}
        return Response(orjson.dumps(document), media_type="application/json")


class ReferenceFiles(Page):
    """What the viewer consists of."""

    def __init__(self) -> None:
        super().__init__(FILES)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path in (".", "index.html"):
            return RedirectResponse("../docs", 308)  # from where the page's own links are right
        return await super().get_response(path, scope)


def describe(app: FastAPI, keyed: bool) -> dict[str, Any]:
    """FastAPI's document with what it cannot know of handlers that read their requests themselves: parameters of paths,
    parts of bodies where references find them, and the key. What a route does stands beside it in the list."""
    document = app.openapi()
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for path, operations in document["paths"].items():
        names = re.findall(r"\{(\w+)\}", path)
        for operation in operations.values():
            operation["summary"] = re.split(r"(?<=[^.])\.\s|\.$|\n", operation["description"])[0]
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schemas |= content["schema"].pop("$defs", {})
            if keyed and is_open(path):
                operation["security"] = []
    if keyed:
        components["securitySchemes"] = {"key": _SCHEME}
        document["security"] = [{"key": []}]
    return document
