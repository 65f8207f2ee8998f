"""Log lines: for people, or one JSON object each. Neither has texts, vectors or keys."""

import asyncio
import datetime
import logging
import sys
import time
from typing import Any

import orjson

SECONDS_BETWEEN = 1.0
"""Between two lines about the same thing, where clients decide how often it happens."""
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says beside its message: the `extra` of the call."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class Console(logging.Formatter):
    """`INFO     message  name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname:8} {record.getMessage()}"
        more = " ".join(f"{name}={value}" for name, value in fields_of(record).items() if value is not None)
        line = f"{line}  {more}" if more else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Json(logging.Formatter):
    """One object a line: `time` (UTC), `level`, `logger`, `message`, the fields, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        then = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": then, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        line |= {name: value for name, value in fields_of(record).items() if value is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class LoopErrors:
    """Says what an event loop has to report, each thing once a second at most. What the system refuses (descriptors, a
    connection that is gone) is no bug, so it comes without a traceback."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error, message, now = context.get("exception"), context["message"], time.monotonic()
        if now < self._said.get(message, float("-inf")) + SECONDS_BETWEEN:
            return
        self._said[message] = now
        logger = logging.getLogger("streambed")
        if isinstance(error, OSError):
            logger.warning("%s: %s", message, error.strerror or type(error).__name__)
        else:
            logger.error("%s", message, exc_info=error)


def set_up(log_format: str) -> None:
    """Sends all log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if log_format == "json" else Console())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
