"""Files of requests, one on each line, and of their answers, as OpenAI's Batch API has them.

The lines are cut into the ranges of `units`; a range is done once its answers are on the disk.
Files are decompressed on the way, as their endings say; uploads have none.
"""

import secrets
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np
from msgspec import Struct

from embedd.bulk.lines import BOM, scan_lines
from embedd.bulk.streams import open_stream
from embedd.bulk.units import Limits, Range

EMBEDDINGS: Final = "/v1/embeddings"
RERANK: Final = "/v1/rerank"
ENDPOINTS: Final = (EMBEDDINGS, RERANK)
METHOD: Final = "POST"
# Small: what was computed of a range is computed again after a crash.
RANGES: Final = Limits(rows=500, bytes=8 << 20)
MOST_REQUESTS: Final = 1_000_000
MOST_FAULTS: Final = 100  # that are reported
LONGEST_ID: Final = 512  # characters of a `custom_id`
LONGEST_QUOTE: Final = 80


class RequestLine(Struct, frozen=True, kw_only=True):
    """A line of the input."""

    custom_id: str
    method: str
    url: str
    body: dict[str, msgspec.Raw]


class _Body(Struct, frozen=True):
    body: msgspec.Raw


class LineFault(Struct, frozen=True, kw_only=True):
    """Why a file of requests is not accepted; *line* counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class LineError(Struct, frozen=True, kw_only=True):
    """Why a request has no answer."""

    code: str
    message: str


class Response(Struct, frozen=True, kw_only=True):
    """The answer to a request."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class AnswerLine(Struct, frozen=True, kw_only=True):
    """A line of the output, or of the file of errors."""

    id: str
    custom_id: str
    response: Response | None
    error: LineError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedLine:
    """A line with its number, from 1, and the bytes of its request."""

    number: int
    request: RequestLine
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a file of requests has.

    Args:
        requests: How many.
        faults: Why it is not accepted, at most `MOST_FAULTS`, in the order of lines; empty if it
            is.
    """

    requests: int
    faults: tuple[LineFault, ...]


class _LineRefusedError(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def find_endpoint(path: Path, *, max_body: int) -> str:
    """Return the endpoint of the first line of a file; that of embeddings if it names none."""
    with open_stream(str(path)) as file:
        for _, line in _numbered(file, max_body):
            try:
                url = _decode(line).url
            except _LineRefusedError:
                break
            return url if url in ENDPOINTS else EMBEDDINGS
    return EMBEDDINGS


def check_requests(path: Path, endpoint: str, *, max_body: int) -> Checked:
    """Check every line of a file; memory grows by 16 bytes with each.

    Args:
        endpoint: The one that all lines name.
        max_body: Bytes of the longest line.
    """
    faults: list[LineFault] = []
    digests, numbers = array("Q"), array("Q")
    with open_stream(str(path)) as file:
        for number, line in _numbered(file, max_body):
            if len(digests) == MOST_REQUESTS:
                message = f"the file has more than {MOST_REQUESTS} requests: split it"
                faults.append(LineFault(code="too_many_requests", message=message, line=number))
                break
            try:
                name = _check_line(line, endpoint, max_body)
            except _LineRefusedError as error:
                faults.append(
                    LineFault(code=error.code, message=str(error), param=error.param, line=number)
                )
                if len(faults) == MOST_FAULTS:
                    break
                continue
            digests.append(int.from_bytes(blake2b(name.encode(), digest_size=8).digest()))
            numbers.append(number)
    if not faults and not digests:
        faults.append(LineFault(code="empty_file", message="the file has no requests"))
    faults += _find_repeated(digests, numbers)
    faults.sort(key=lambda one: one.line or 0)
    return Checked(requests=len(digests), faults=tuple(faults[:MOST_FAULTS]))


def _numbered(file: BinaryIO, max_body: int) -> Iterator[tuple[int, bytes]]:
    """The lines with content and their numbers; of one that is too long, its start."""
    number = 0
    while line := file.readline(max_body + 2):
        number += 1
        rest = line
        while len(rest) == max_body + 2 and not rest.endswith(b"\n"):
            rest = file.readline(max_body + 2)
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield number, line


def _check_line(line: bytes, endpoint: str, max_body: int) -> str:
    """Return the name of a request."""
    if len(line.rstrip(b"\r\n")) > max_body:
        raise _LineRefusedError(
            "request_too_large", f"the line has more than {max_body} bytes (EMBEDD_MAX_BODY)"
        )
    request = _decode(line)
    if not 0 < len(request.custom_id) <= LONGEST_ID:
        raise _LineRefusedError(
            "invalid_custom_id", f"custom_id must have 1 to {LONGEST_ID} characters", "custom_id"
        )
    if request.method != METHOD:
        found = request.method[:LONGEST_QUOTE]
        raise _LineRefusedError(
            "invalid_method", f"method must be {METHOD}, got {found!r}", "method"
        )
    if request.url != endpoint:
        found = request.url[:LONGEST_QUOTE]
        raise _LineRefusedError(
            "invalid_url", f"url must be the batch's endpoint, {endpoint}, got {found!r}", "url"
        )
    return request.custom_id


def _decode(line: bytes) -> RequestLine:
    try:
        return msgspec.json.decode(line, type=RequestLine)
    except msgspec.ValidationError as error:
        raise _LineRefusedError("invalid_request", f"not a request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _LineRefusedError("invalid_json_line", f"not valid JSON: {error}") from None


def _find_repeated(digests: "array[int]", numbers: "array[int]") -> Iterator[LineFault]:
    """The lines whose `custom_id` an earlier line has."""
    names, lines = np.array(digests, np.uint64), np.array(numbers, np.uint64)
    _, first, of = np.unique(names, return_index=True, return_inverse=True)
    for index in np.flatnonzero(first[of] != np.arange(len(names)))[:MOST_FAULTS].tolist():
        earlier = int(lines[first[of[index]]])
        yield LineFault(
            code="duplicate_custom_id",
            message=f"custom_id must be unique, and is that of line {earlier}",
            param="custom_id",
            line=int(lines[index]),
        )


def plan_requests(path: Path, *, start: int = 0) -> Iterator[Range]:
    """Yield the ranges of a file from the byte *start* on, where one of them begins."""
    with open_stream(str(path)) as file:
        for found in scan_lines(file, RANGES):
            if found.start >= start:
                yield found


def read_requests(path: Path, lines: Range) -> list[NumberedLine]:
    """Return the requests of a range of a file that was checked."""
    with open_stream(str(path)) as file:
        file.seek(lines.start)
        return parse_requests(file.read(lines.end - lines.start), lines)


def parse_requests(data: bytes, lines: Range) -> list[NumberedLine]:
    """Return the requests in *data*, which is that of a range of a file that was checked."""
    found = []
    for number, line in enumerate(data.split(b"\n"), start=lines.line):
        text = line.removeprefix(BOM) if number == 1 else line
        if text.strip():
            request = msgspec.json.decode(text, type=RequestLine)
            body = bytes(msgspec.json.decode(text, type=_Body).body)
            found.append(NumberedLine(number=number, request=request, body=body))
    return found


def render_answer(custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """Return the line of a request that was answered; *body* is JSON."""
    response = Response(status_code=status, request_id=request_id, body=msgspec.Raw(body))
    return _render(AnswerLine(id=_new_id(), custom_id=custom_id, response=response, error=None))


def render_error(custom_id: str, code: str, message: str) -> bytes:
    """Return the line of a request that was not answered."""
    error = LineError(code=code, message=message)
    return _render(AnswerLine(id=_new_id(), custom_id=custom_id, response=None, error=error))


def _render(line: AnswerLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _new_id() -> str:
    return f"batch_req_{secrets.token_hex(12)}"
