"""The watch over keys: no test's log, output or answer may have a key in it.

Keys of tests begin with `MARK`, so that they can be searched for.
"""

import logging
from collections.abc import Iterable

from embedd.logs import ConsoleFormatter
from tests.installed_server import MARK

__all__ = ["MARK", "WATCH", "KeyWatch", "check_answer"]


class KeyWatch(logging.Handler):
    """Formats each record as the server's log has it, and keeps those with a key.

    Attributes:
        found: What was logged with a key in it since `take_found` was called last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(ConsoleFormatter())
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line if it has a key."""
        line = self.format(record)
        if MARK in line:
            self.found.append(line)

    def take_found(self, output: Iterable[str] = ()) -> list[str]:
        """Return the lines with a key: of the log since the last call, and of *output*."""
        found, self.found = self.found, []
        return found + [line for text in output for line in text.splitlines() if MARK in line]


WATCH = KeyWatch()


def check_answer(body: bytes, headers: Iterable[str]) -> None:
    """Check that an answer has no key in it."""
    assert MARK.encode() not in body, "an answer has a key in it"
    assert not any(MARK in value for value in headers), "a header of an answer has a key in it"
