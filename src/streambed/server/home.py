"""`GET /`: leads a browser to the page, and tells everybody else where things are."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from streambed.server.replies import Json

PLACES = {
    "embeddings": "/v1/embeddings",
    "models": "/v1/models",
    "facts": "/info",
    "ready": "/readyz",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "page": "/playground/",
}
"""The same for everybody: it tells nothing about the model."""
_HEADERS = {"Vary": "Accept", "Cache-Control": "no-cache"}


async def home(request: Request) -> Response:
    """Where things are."""
    prefix = request.scope.get("root_path", "")
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{prefix}/playground/", 307, _HEADERS)
    return Json({"service": "Streambed", **{name: prefix + path for name, path in PLACES.items()}}, headers=_HEADERS)
