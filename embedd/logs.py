"""Logging: one line per event, a constant message and its values as ``key=value``."""

import logging
import sys
from typing import TextIO

TRACE = 5
MAX_REASON = 500  # characters of an error's text in a log line
_STANDARD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}


class ConsoleFormatter(logging.Formatter):
    """Formats ``2026-08-21 08:06:48 INFO model loaded model=all-minilm:latest``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by a traceback if there is one."""
        values = [
            f"{name}={_quote(value)}"
            for name, value in record.__dict__.items()
            if name not in _STANDARD_FIELDS
        ]
        when = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        line = " ".join([when, f"{record.levelname:<7}", record.getMessage(), *values])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logs(debug: int, stream: TextIO = sys.stderr) -> None:
    """Log to *stream*; *debug* 0 is INFO and above, 1 DEBUG, 2 everything."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ConsoleFormatter())
    root = logging.getLogger("embedd")
    root.handlers[:] = [handler]
    root.setLevel({0: logging.INFO, 1: logging.DEBUG}.get(debug, TRACE))
    root.propagate = False


def _quote(value: object) -> str:
    text = str(value)
    # Values may come from clients: no control character may reach the terminal.
    plain = text.isprintable() and " " not in text and '"' not in text
    return text if text and plain else repr(text)
