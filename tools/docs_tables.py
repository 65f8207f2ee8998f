"""Make the parts of docs/ that come from code: docs/settings.md, and the tables in docs/protocol.md. `make docs` runs this.

A part of docs/protocol.md stands between `<!-- made from code: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from streambed.errors import ERROR_TABLE
from streambed.limits import HISTORY, LIMITS, MAX_UNCOMMITTED
from streambed.server.routes import ROUTES
from streambed.server.sessions import Sessions
from streambed.settings import groups, shown_default
from streambed.streams.protocol import TRANSITIONS
from streambed.wire import (
    CLIENT_EVENTS,
    SERVER_EVENTS,
    EmbeddingsRequest,
    Emit,
    PrefixesRequest,
    ServerEvent,
    SessionResumed,
    SessionUpdated,
    Watch,
)

DOCS = Path(__file__).parents[1] / "docs"


def pages() -> dict[Path, str]:
    """The pages and what they have to be. Raises ValueError or KeyError if docs/protocol.md lacks a part or has another."""
    protocol = DOCS / "protocol.md"
    return {DOCS / "settings.md": settings_page(), protocol: protocol_page(protocol.read_text())}


def settings_page() -> str:
    """docs/settings.md, made from the settings class."""
    lines = [
        "# Settings of `streambed serve`",
        "",
        "Made from `src/streambed/settings.py`; after a change there, run `make docs`. A flag wins over its variable.",
        "A repeatable variable holds its values separated by spaces.",
    ]
    for heading, settings in groups().items():
        lines += ["", f"## {heading}", "", "| flag | variable | default | meaning |", "|---|---|---|---|"]
        for field in settings:
            flag, default = field.name.replace("_", "-"), shown_default(field)
            shown = f"`{default}`" if default else ""
            meaning = field.metadata["help"].replace("|", "\\|")
            lines.append(f"| `--{flag}` | `STREAMBED_{field.name.upper()}` | {shown} | {meaning} |")
    lines += [
        "",
        "`--model-path` is `--model`; `--is-embedding` is accepted and does nothing.",
        "",
        "## Fixed limits",
        "",
    ]
    lines += ["Made from `src/streambed/limits.py`. No setting changes these.", ""]
    rows = [[limit.name, f"{limit.value:,.0f} {limit.unit}", limit.meaning] for limit in LIMITS]
    return "\n".join([*lines, table("| limit | value | meaning |", rows), ""])


def table(head: str, rows: list[list[str]]) -> str:
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def kind(annotation: object) -> str:
    """A type as a reader of JSON would say it."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = re.sub(r"streambed\.wire\.\w+\.|typing\.|\bNone\b \| | \| \bNone\b", "", text)
    text = re.sub(r"Optional\[(.*)\]", r"\1", text)
    text = re.sub(r"Literal\[([^]]*)\]", lambda found: found[1].replace("'", "`").replace('"', "`"), text)
    names = {"str": "string", "int": "integer", "float": "number", "Any": "numbers or string", "NoneType": "null"}
    names |= {"dict[str, int]": "object", "dict[str, float]": "object", "dict[str, Any]": "object"}
    return names.get(text, text)


def shape(schema: dict[str, Any]) -> str:
    """The same of a field in a JSON schema."""
    if "anyOf" in schema:
        return " or ".join(shape(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{each}`" for each in schema.get("enum") or [schema["const"]])
    if schema.get("type") == "array":
        return shape(schema["items"]) + "s"
    return "a text, texts, or token ids" if "oneOf" in schema else str(schema.get("type", "object"))


def model_rows(model: type[BaseModel]) -> list[list[str]]:
    schemas, rows = model.model_json_schema()["properties"], []
    for name, field in model.model_fields.items():
        if name in ("type", "event_id", "session"):
            continue
        default = "" if field.is_required() or field.default_factory else f"`{json.dumps(field.default)}`"
        default = "required" if field.is_required() else default.replace("`null`", "")
        rows.append([f"`{name}`", shape(schemas[name]), default, field.description or ""])
    return rows


def client_events() -> str:
    parts = []
    for name, model in CLIENT_EVENTS.items():
        fields_ = "" if "session" not in model.model_fields else "`session`, "
        parts += [f"### `{name}`", "", f"{' '.join((model.__doc__ or '').split())}", ""]
        rows = model_rows(model)
        parts += [f"Fields: {fields_}`event_id`" + (", and" if rows else "."), ""]
        if rows:
            parts += [table("| field | type | default | meaning |", rows), ""]
    return "\n".join(parts).strip()


def server_events() -> str:
    common = {each.name for each in fields(ServerEvent)}
    parts = []
    for name, event in SERVER_EVENTS.items():
        rows = [
            [f"`{each.name}`", kind(event.__annotations__.get(each.name, each.type)), each.metadata["description"]]
            for each in fields(event)
            if each.name not in common
        ]
        parts += [f"### `{name}`", "", " ".join((event.__doc__ or "").split()), ""]
        if event in (SessionResumed, SessionUpdated):
            parts += ["Fields as in `session.created`.", ""]
            continue
        parts += [
            table("| field | type | meaning |", [[a, kind(b.removesuffix(" | None")), c] for a, b, c in rows]),
            "",
        ]
    return "\n".join(parts).strip()


SECTIONS: dict[str, Callable[[], str]] = {
    "client events": client_events,
    "emit": lambda: table("| field | type | default | meaning |", model_rows(Emit)),
    "watch": lambda: table("| field | type | default | meaning |", model_rows(Watch)),
    "server events": server_events,
    "embeddings": lambda: table("| field | type | default | meaning |", model_rows(EmbeddingsRequest)),
    "prefixes": lambda: table("| field | type | default | meaning |", model_rows(PrefixesRequest)),
    "history": lambda: f"{HISTORY:,}",
    "unacknowledged": lambda: f"{MAX_UNCOMMITTED:,}",
    "transitions": lambda: table(
        "| state | event | state after |",
        [[a.value, f"`{e}`", b.value] for (a, e), b in sorted(TRANSITIONS.items(), key=str)],
    ),
    "routes": lambda: table(
        "| route | what |",
        [
            [f"`{row.method} {row.path}`", " ".join(getattr(Sessions, row.handler.split(".")[1]).__doc__.split())]
            for row in ROUTES
            if row.handler.startswith("sessions.")
        ],
    ),
    "errors": lambda: table(
        "| code | HTTP | retryable |",
        [[f"`{e.code}`", str(e.status), "yes" if e.retryable else ""] for e in ERROR_TABLE],
    ),
}


def protocol_page(page: str) -> str:
    """docs/protocol.md with its tables made anew."""

    def make(found: re.Match[str]) -> str:
        inline = "\n" not in found[0]
        text = SECTIONS[found[1]]()
        return (
            f"<!-- made from code: {found[1]} -->{text}<!-- end -->"
            if inline
            else (f"<!-- made from code: {found[1]} -->\n\n{text}\n\n<!-- end -->")
        )

    if missing := SECTIONS.keys() - set(re.findall(r"made from code: (.*?) -->", page)):
        raise ValueError(f"docs/protocol.md has no place for {', '.join(sorted(missing))}")
    return re.sub(r"<!-- made from code: ([^>]*) -->.*?<!-- end -->", make, page, flags=re.S)


def main() -> None:
    """Writes the pages."""
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
