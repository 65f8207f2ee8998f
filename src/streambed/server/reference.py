"""`/docs`: the OpenAPI document in Swagger UI, whose files ship with us, and the document itself.

The page is open as the playground's is, and asks nobody but this server. The document needs the key, or the cookie that
stands for it.
"""

import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Scope

from streambed.errors import ERROR_TABLE, InvalidRequest
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
            needed = any(field.is_required() for field in row.body.model_fields.values())
            extra["requestBody"] = {"required": needed, "content": {"application/json": {"schema": schema}}}
        if self._keyed and row.open:
            extra["security"] = []
        summary = re.split(r"(?<=[^.])\.\s|\.$|\n", description)[0]
        more = {"response_class": PlainTextResponse} if row.plain else {}
        return {
            "summary": summary, "status_code": row.status, "responses": _errors(row), "openapi_extra": extra, **more,
        }  # fmt: skip

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


def _errors(row: Row) -> dict[int | str, dict[str, Any]]:
    """How a route says each error of the table, by status."""
    found: dict[int | str, dict[str, Any]] = {}
    of_items = InvalidRequest("")
    of_items.details = {"indexes": [0]}
    for error in (*(kind("") for kind in ERROR_TABLE), of_items):
        status, body = row.dialect(error) if row.dialect else (error.status, {})
        schema = {"type": "object", "required": list(body)} if row.dialect else _ERROR_SCHEMA
        answer = found.setdefault(status, {"description": "", "content": {"application/json": {"schema": schema}}})
        if error.code not in answer["description"]:
            answer["description"] += f"{', ' if answer['description'] else ''}{error.code}"
    return found


class ReferenceFiles(Page):
    """Serves a file of the viewer."""

    def __init__(self) -> None:
        super().__init__(FILES)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path in (".", "index.html"):
            return RedirectResponse("../docs", 308)  # from where the page's own links are right
        return await super().get_response(path, scope)
