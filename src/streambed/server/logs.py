"""Log lines: for people, or one JSON object each. Neither has texts, vectors or keys."""

import datetime
import logging
import sys
from typing import Any

import orjson

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
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        line |= {name: value for name, value in fields_of(record).items() if value is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def set_up(log_format: str) -> None:
    """Sends all log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if log_format == "json" else Console())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
