"""Bodies of ``multipart/form-data``, split into their fields while they arrive."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import Final, TypeAlias

from embedd.errors import MalformedBodyError

LONGEST_HEAD: Final = 16 << 10  # bytes of the headers of a field
_BOUNDARY: Final = re.compile(r"[\x20-\x7e]{1,70}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The beginning of a field; *filename* is None if it is not a file."""

    name: str
    filename: str | None


Event: TypeAlias = Field | bytes


class FormParser:
    """Splits a body into fields, each followed by its content in pieces.

    Args:
        content_type: The header of the request.

    Raises:
        MalformedBodyError: It is not that of a form with files.
    """

    def __init__(self, content_type: str) -> None:
        head = Message()
        head["Content-Type"] = content_type
        boundary = head.get_boundary("")
        if head.get_content_type() != "multipart/form-data" or not _BOUNDARY.fullmatch(boundary):
            raise MalformedBodyError(
                "the body must be multipart/form-data with a boundary and a field named file"
            )
        self._mark = b"\r\n--" + boundary.encode("ascii")
        self._data = bytearray(b"\r\n")  # the first boundary may begin the body
        self._take = self._take_preamble

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yield what *piece* completes.

        Raises:
            MalformedBodyError: The body is not a form.
        """
        self._data += piece
        while (event := self._take()) is not None:
            if event:
                yield event

    def finish(self) -> None:
        """Check that the body was complete.

        Raises:
            MalformedBodyError: Its end is missing.
        """
        if self._take != self._take_rest:
            raise MalformedBodyError("the form ends early: its last boundary is missing")

    # Each of these takes what it can from the data, goes on to the next of them where that is
    # complete, and returns an event, nothing (empty bytes), or None where more data is needed.

    def _take_preamble(self) -> Event | None:
        content = self._take_content()
        return None if content is None else b""

    def _take_content(self) -> Event | None:
        at = self._data.find(self._mark)
        if at >= 0:
            content = bytes(self._data[:at])
            del self._data[: at + len(self._mark)]
            self._take = self._take_boundary
            return content
        size = len(self._data) - len(self._mark) + 1  # the rest may begin a boundary
        if size <= 0:
            return None
        content = bytes(self._data[:size])
        del self._data[:size]
        return content

    def _take_boundary(self) -> Event | None:
        if len(self._data) < len(b"--"):
            return None
        end = bytes(self._data[:2])
        if end not in (b"--", b"\r\n"):
            raise MalformedBodyError("the form has a boundary that does not end its line")
        # The line end stays before the headers, so that there may be none.
        self._take = self._take_rest if end == b"--" else self._take_head
        return b""

    def _take_head(self) -> Event | None:
        at = self._data.find(b"\r\n\r\n")
        if at < 0 and len(self._data) <= LONGEST_HEAD:
            return None
        if not 0 <= at <= LONGEST_HEAD:
            raise MalformedBodyError(
                f"a field of the form has more than {LONGEST_HEAD} bytes of headers"
            )
        field = _parse_head(bytes(self._data[2:at]))
        del self._data[: at + 4]
        # An empty content is a boundary at once, whose line end is the one before it.
        self._take = self._take_content
        return field

    def _take_rest(self) -> Event | None:
        self._data.clear()
        return None


def _parse_head(data: bytes) -> Field:
    head = BytesParser(policy=HTTP).parsebytes(data, headersonly=True)
    disposition = head["Content-Disposition"]
    parameters = {} if disposition is None else dict(disposition.params)
    name = parameters.get("name")
    if name is None:
        raise MalformedBodyError("a field of the form has no name")
    return Field(name=str(name), filename=parameters.get("filename"))
