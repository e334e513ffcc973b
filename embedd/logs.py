"""Logging: one line per event, a constant message and its values, as text or as JSON."""

import json
import logging
import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

TRACE = 5
MAX_REASON = 500  # characters of an error's text in a log line
_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


class LogFormat(StrEnum):
    """How a line of the log is written."""

    TEXT = "text"
    JSON = "json"


class ConsoleFormatter(logging.Formatter):
    """Formats ``2026-08-21 08:06:48 INFO model loaded model=all-minilm:latest``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by a traceback if there is one."""
        values = [f"{name}={_quote(value)}" for name, value in _facts(record)]
        when = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        line = " ".join([when, f"{record.levelname:<7}", record.getMessage(), *values])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """Formats a JSON object on one line: time (UTC), level, message, values, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; numbers stay numbers, what JSON has no type for becomes text."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname,
            "message": record.getMessage(),
            **{name: _to_json_value(value) for name, value in _facts(record)},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)  # ASCII: any terminal and any encoding of the stream takes it


def set_up_logs(
    debug: int, stream: TextIO = sys.stderr, log_format: LogFormat = LogFormat.TEXT
) -> None:
    """Log to *stream*; *debug* 0 is INFO and above, 1 DEBUG, 2 everything."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(stream)
    is_json = log_format is LogFormat.JSON
    handler.setFormatter(JsonFormatter() if is_json else ConsoleFormatter())
    root = logging.getLogger("embedd")
    root.handlers[:] = [handler]
    root.setLevel({0: logging.INFO, 1: logging.DEBUG}.get(debug, TRACE))
    root.propagate = False


def _facts(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Yield what was given as ``extra``; libraries such as Ray add names with an underscore."""
    for name, value in record.__dict__.items():
        if name not in _STANDARD_FIELDS and not name.startswith("_"):
            yield name, value


def _to_json_value(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):  # JSON has no infinity
        return value
    return str(value)


def _quote(value: object) -> str:
    text = str(value)
    # Values may come from clients: no control character may reach the terminal.
    plain = text.isprintable() and " " not in text and '"' not in text
    return text if text and plain else repr(text)
