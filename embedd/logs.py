"""The operator's diary: one line per event, constant message, facts as ``key=value``."""

import logging
import sys
from typing import TextIO

TRACE = 5
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class ConsoleFormatter(logging.Formatter):
    """``2026-08-21 08:06:48 INFO model loaded model=all-minilm:latest``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, followed by a traceback if one was logged."""
        facts = [
            f"{name}={_quote(value)}"
            for name, value in record.__dict__.items()
            if name not in _KNOWN
        ]
        when = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        line = " ".join([when, f"{record.levelname:<7}", record.getMessage(), *facts])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_logs(debug: int, stream: TextIO = sys.stderr) -> None:
    """Log to *stream*; *debug* is 0 for the diary, 1 for details, 2 for everything."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ConsoleFormatter())
    root = logging.getLogger("embedd")
    root.handlers[:] = [handler]
    root.setLevel({0: logging.INFO, 1: logging.DEBUG}.get(debug, TRACE))
    root.propagate = False


def _quote(value: object) -> str:
    text = str(value)
    # Whatever a client sent may stand here: no control character reaches the terminal.
    plain = text.isprintable() and " " not in text and '"' not in text
    return text if text and plain else repr(text)
