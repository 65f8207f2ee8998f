"""`/docs`: the OpenAPI document in Swagger UI, whose files ship with us, and the document itself.

The page is open as the playground's is, and asks nobody but this server. The document needs the key, or the cookie that
stands for it.
"""

import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from streambed.errors import ERROR_TABLE
from streambed.server.playground import HEADERS, Page
from streambed.server.replies import Json
from streambed.server.routes import Row

FILES = Path(__file__).with_name("reference")
_SCHEME = {"type": "http", "scheme": "bearer", "description": "A key of this server."}
_ERROR_SCHEMA = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string", "enum": [error.code for error in ERROR_TABLE]},
                "details": {"type": "object", "description": "Where there is more to act on: `indexes` of bad items."},
            },
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": ", ".join(error.code for error in ERROR_TABLE if error.status == status),
        "content": {"application/json": {"schema": _ERROR_SCHEMA}},
    }
    for status in (400, 401, 404, 409, 413, 415, 429, 500, 503, 504, 507)
}


class Reference:
    """The handlers. keyed: whether requests need a key."""

    def __init__(self, app: FastAPI, keyed: bool) -> None:
        self.files = ReferenceFiles()
        self._app = app
        self._keyed = keyed
        self._page = (FILES / "index.html").read_bytes()
        self._schemas: dict[str, Any] = {}

    def operation(self, row: Row, description: str) -> dict[str, Any]:
        """What FastAPI is told of a route: it cannot know what handlers take that read their requests themselves."""
        names = re.findall(r"\{(\w+)\}", row.template)
        extra: dict[str, Any] = {
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        }
        if row.body is not None:
            schema = row.body.model_json_schema(ref_template="#/components/schemas/{model}")
            extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        if self._keyed and row.open:
            extra["security"] = []
        summary = re.split(r"(?<=[^.])\.\s|\.$|\n", description)[0]
        return {"summary": summary, "responses": None if row.quiet else _ERRORS, "openapi_extra": extra}

    async def page(self, request: Request) -> Response:
        """The viewer."""
        return Response(self._page, media_type="text/html", headers=HEADERS)

    async def document(self, request: Request) -> Response:
        """The OpenAPI document."""
        document = {**self._app.openapi(), "components": {"schemas": self._schemas}}
        for operation in (each for operations in document["paths"].values() for each in operations.values()):
            for content in operation.get("requestBody", {}).get("content", {}).values():
                self._schemas |= content["schema"].pop("$defs", {})  # where references find them
        if self._keyed:
            document["components"]["securitySchemes"] = {"key": _SCHEME}
            document["security"] = [{"key": []}]
        if prefix := request.scope.get("root_path"):
            document["servers"] = [{"url": prefix}]
        return Json(document)


class ReferenceFiles(Page):
    """Serves a file of the viewer."""

    def __init__(self) -> None:
        super().__init__(FILES)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path in (".", "index.html"):
            return RedirectResponse("../docs", 308)  # from where the page's own links are right
        return await super().get_response(path, scope)
