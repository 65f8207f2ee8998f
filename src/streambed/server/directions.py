"""Hints for wrong paths: what exists at a path, which methods it takes, and which route somebody probably meant."""

import difflib
import re

from streambed.errors import InvalidRequest, NotFound, RequestError
from streambed.server.routes import FILES, WEBSOCKET, Routes

_PARAMETER = re.compile(r"\{[^}]*\}")
_ALIKE = 0.7
"""How alike two paths must be, in difflib's ratio, for one to be taken for the other."""
_LONGEST = 80


class Directions:
    """Knows the routes of a server; tells of those alone that its documentation shows."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._shown: dict[str, list[str]] = {}
        for row in routes.rows:
            if row.shown:
                self._shown.setdefault(row.template, []).append(row.method)

    def methods(self, path: str) -> list[str]:
        """The methods that a path takes, over all routes that stand there."""
        found = {row.method for row in self._routes.at(path)} - {FILES, WEBSOCKET}
        return sorted(found | ({"HEAD"} if "GET" in found else set()))

    def not_found(self, path: str) -> RequestError:
        """There is nothing at this path."""
        near = self._nearest(path)
        hint = f"; did you mean {near}?" if near else "; /docs shows what there is"
        return NotFound(f"there is nothing at {_safe(path)}{hint}")

    def wrong_method(self, path: str, method: str) -> RequestError:
        """There is something at this path, for other methods."""
        methods = self.methods(path)
        words = f"{', '.join(methods[:-1])} and {methods[-1]}" if len(methods) > 1 else methods[0]
        return InvalidRequest(f"{_safe(path)} takes {words}, not {_safe(method)}")

    def _nearest(self, path: str) -> str | None:
        if len(path) > 4 * _LONGEST:  # nobody mistypes a route so
            return None
        best, most = None, _ALIKE
        for template, methods in self._shown.items():
            given, wanted = _fixed(path.lower(), template)
            ratio = difflib.SequenceMatcher(None, given, wanted).ratio()
            if given.endswith(wanted):  # with something before it that is no part of it
                ratio = max(ratio, 0.99)
            if ratio > most:
                best, most = f"{' or '.join(sorted(methods))} {template}", ratio
        return best


def _fixed(path: str, template: str) -> tuple[str, str]:
    """Both without what stands for a parameter: an id is as good as another."""
    given, steps = path.rstrip("/").split("/"), template.split("/")
    if len(steps) == len(given):
        given = ["" if _PARAMETER.fullmatch(step) else each for step, each in zip(steps, given, strict=True)]
    return "/".join(given), _PARAMETER.sub("", template)


def _safe(words: str) -> str:
    """A client's path, shortened and without characters that could forge a log line or markup."""
    return re.sub(r"[^A-Za-z0-9._~/{}:@+-]", "?", words[:_LONGEST]) + ("..." if len(words) > _LONGEST else "")
