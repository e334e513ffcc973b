"""Request bodies: read within limits, decoded leniently.

A body is decoded by msgspec. If that fails, the standard library parses it, which accepts
what clients really send (a byte order mark, bytes after the value, ``256.0`` for an integer,
lone surrogates), and msgspec decodes the result. If that fails too, the error names the field
that is wrong: in Go's wording, which Ollama's clients know, or in plain words.

Long bodies are decoded in a thread, and what they hold is counted first: see `large_json`.
"""

import difflib
import functools
import json
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec
import numpy as np
from aiohttp import web

from embedd.errors import (
    EmbeddError,
    InvalidInputError,
    MalformedBodyError,
    RequestError,
    TooLargeError,
)
from embedd.server.http.decompress import read_arrived, read_decompressed
from embedd.server.http.in_flight import BytesInFlight
from embedd.server.http.large_json import MAX_ITEMS, SLICE, Data, LargeJson
from embedd.server.http.streams import in_thread
from embedd.server.http.threads import MAX_WAITING, Threads

Body = TypeVar("Body", bound=msgspec.Struct)
Decoded = TypeVar("Decoded")

KINDS = {
    str: "string",
    bool: "bool",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
}
GO_TYPES = {
    str: "string",
    bool: "bool",
    int: "int",
    float: "float64",
    dict: "map[string]interface {}",
    list: "[]interface {}",
}
PLAIN_TYPES = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    dict: "an object",
    list: "a list",
}
# The body of a request, if it was read to choose the dialect.
ALREADY_READ: Final = web.RequestKey("body", bytearray)
MODEL: Final = "model"  # the field that nearly all requests have
MAX_DIGITS: Final = 1000  # of a number; Python itself converts 4,300 at most
MAX_DEPTH = 200  # levels of nesting; the standard library's parser recurses
LONG_AT_A_TIME: Final = 2  # bodies that are decoded in threads

# (struct, value, field or None for the whole body, expected types) → the error
MakeError: TypeAlias = Callable[[type, object, str | None, Sequence[type]], InvalidInputError]


class BodyLimits:
    """Limits on request bytes: of one body, and of all bodies in flight.

    Args:
        max_body: Bytes of one body, decompressed.
        max_in_flight: Bytes of all bodies together, half of them from one client's address.
    """

    def __init__(self, *, max_body: int, max_in_flight: int) -> None:
        self._max_body = max_body
        self._in_flight = BytesInFlight(max_in_flight)
        self._threads = Threads(
            "long request bodies", size=LONG_AT_A_TIME, waiting=MAX_WAITING, wait=60.0
        )

    def read(self, request: web.Request) -> "BodyInFlight":
        """Read the whole body (``async with``); it counts as in flight until the block ends.

        Raises:
            MalformedBodyError: The body is not encoded as its headers say.
            TooLargeError: The body is longer than one may be.
            StalledBodyError: The client stopped sending it.
            OverloadedError: Too many bytes are in flight.
        """
        return BodyInFlight(request, self._in_flight, self._max_body)

    async def decode(self, body: bytearray, function: Callable[[], Decoded]) -> Decoded:
        """Return what *function* makes of *body*, in a thread if that is long; then empty *body*.

        Raises:
            EmbeddError: As *function*; where the field ``model`` is missing, with the field that
                may be meant for it.
        """
        try:
            return await self.inspect(body, function)
        except RequestError as error:
            if error.field == MODEL:
                await self.inspect(body, functools.partial(_name_misspelt, error, body))
            raise
        finally:
            # What was made of it takes as much memory, until the request is answered.
            body.clear()

    async def inspect(self, body: bytearray, function: Callable[[], Decoded]) -> Decoded:
        """As `decode`, but leave *body* as it is."""
        if len(body) <= SLICE:
            return function()
        return await in_thread(self._threads, function)


class BodyInFlight:
    """A block in which the body of *request* is read and counts as in flight.

    A class, not a generator: most requests have a small body that has arrived already.
    """

    __slots__ = ("_address", "_in_flight", "_max_body", "_request", "_size")

    def __init__(self, request: web.Request, in_flight: BytesInFlight, max_body: int) -> None:
        self._request = request
        self._in_flight = in_flight
        self._max_body = max_body
        self._address = ""
        self._size = 0

    async def __aenter__(self) -> bytearray:
        """Read the body."""
        request = self._request
        if ALREADY_READ in request:  # and counted
            return request[ALREADY_READ]
        if (request.content_length or 0) > self._max_body:
            raise self._too_large()
        self._address = request.remote or ""
        body = bytearray()
        try:
            arrived = read_arrived(request)
            if arrived is not None:
                self._add(body, arrived)
                return body
            async with aclosing(read_decompressed(request)) as pieces:
                async for piece in pieces:
                    self._add(body, piece)
        except BaseException:
            self._in_flight.remove(self._address, self._size)
            raise
        return body

    async def __aexit__(self, *_: object) -> None:
        """Count the body no longer."""
        if self._size:
            self._in_flight.remove(self._address, self._size)

    def _add(self, body: bytearray, piece: bytes) -> None:
        self._size += len(piece)
        self._in_flight.add(self._address, len(piece), self._size)
        if self._size > self._max_body:
            raise self._too_large()
        body += piece

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"request body too large: the limit is {self._max_body} bytes (EMBEDD_MAX_BODY)",
            limit=self._max_body,
        )


def decode(body: Data, kind: type[Body], max_inputs: int = MAX_ITEMS) -> Body:
    """Decode the body; errors have Go's wording and the name of *kind*.

    Args:
        max_inputs: Inputs of a request, for a long body; see `LargeJson`. In it a long list of
            numbers becomes an array.

    Raises:
        InvalidInputError: The body is empty, not JSON, has a field of the wrong type, or too
            many values.
    """
    return _decode(body, kind, max_inputs, _go_error)


def decode_plainly(body: Data, kind: type[Body], max_inputs: int = MAX_ITEMS) -> Body:
    """Decode the body as `decode` does; errors name the field in plain words."""
    return _decode(body, kind, max_inputs, _plain_error)


def find_misspelt(fields: Iterable[str], field: str) -> str | None:
    """Return which of *fields* may be meant for *field*, which is not among them; or None."""
    names = {name.lower(): name for name in fields}
    near = difflib.get_close_matches(field, names, 1, cutoff=0.7)
    return names[near[0]] if near else None


def _name_misspelt(error: EmbeddError, body: Data) -> None:
    """Add to *error* the field of *body* that may be meant for the one that is missing."""
    fields = raw_fields(body)
    if MODEL not in fields and (found := find_misspelt(fields, MODEL)):
        error.args = (f'{error}; "{found}" is not a field: did you mean "{MODEL}"?',)


def raw_fields(body: Data) -> Mapping[str, bytes]:
    """Return the fields of the JSON object *body* that are not null; none if not an object.

    Each is its JSON text, or the start of a long one.

    Raises:
        MalformedBodyError: The body is empty or not JSON.
        InvalidInputError: It has too many fields.
    """
    if len(body) > SLICE:
        large = _open_large(body, MAX_ITEMS)
        heads = large.heads() if large.is_object else {}
        return {name: value for name, value in heads.items() if value.strip() != b"null"}
    try:
        raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        fields = {name: bytes(value) for name, value in raw.items()}
        return {name: value for name, value in fields.items() if value != b"null"}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = parse_leniently(body)
    fields = {}
    if isinstance(value, dict):
        fields = {name: msgspec.json.encode(one) for name, one in value.items() if one is not None}
    return fields


def _decode(body: Data, kind: type[Body], max_inputs: int, make_error: MakeError) -> Body:
    value: object
    if len(body) > SLICE:
        large = _open_large(body, max_inputs)
        value = large.parse_fields(get_type_hints(kind)) if large.is_object else large.sample()
    else:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = parse_leniently(body)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise make_error(kind, value, None, [dict])
    return _to_struct(value, kind, make_error)


def _to_struct(value: Mapping[str, object], kind: type[Body], make_error: MakeError) -> Body:
    hints = get_type_hints(kind)
    fields = {name: _to_integer(field, hints.get(name)) for name, field in value.items()}
    fields = {name: field for name, field in fields.items() if field is not None}
    # A list of numbers, where it is not the wrong type at once, is wrong from its first on.
    probes = {
        name: field[:1].tolist()
        for name, field in fields.items()
        if isinstance(field, np.ndarray) and hints.get(name) is not Any
    }
    try:
        return msgspec.convert(fields | probes, kind)
    except msgspec.ValidationError as error:
        wrong = _find_wrong_field(fields | probes, hints)
        raise (make_error(kind, *wrong) if wrong else InvalidInputError(str(error))) from None


def _open_large(body: Data, max_inputs: int) -> LargeJson:
    return LargeJson(body, max_inputs=max_inputs, max_depth=MAX_DEPTH, parse=_parse_short)


def _parse_short(text: bytes) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return parse_leniently(text)


def parse_leniently(body: Data) -> object:
    """Parse the first JSON value in *body* with the standard library.

    Bytes that are not UTF-8 and lone surrogates become U+FFFD.

    Raises:
        MalformedBodyError: The body is empty or not JSON.
    """
    text = body.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if not text:
        raise MalformedBodyError("missing request body")
    try:
        value, _ = _DECODER.raw_decode(text)
    except ValueError as error:
        raise MalformedBodyError(f"invalid JSON in request body: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    return _replace_surrogates(value, MAX_DEPTH)


def _too_deep() -> MalformedBodyError:
    return MalformedBodyError(f"invalid JSON in request body: more than {MAX_DEPTH} levels")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(text)


def _reject_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    parse_float=_parse_float, parse_int=_parse_int, parse_constant=_reject_constant
)


def _replace_surrogates(value: object, depth: int) -> object:
    """Replace lone surrogates, which UTF-8 cannot encode, with U+FFFD."""
    if not depth:
        raise _too_deep()
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_replace_surrogates(one, depth - 1) for one in value]
    if isinstance(value, dict):
        return {
            _replace_surrogates(k, depth - 1): _replace_surrogates(v, depth - 1)
            for k, v in value.items()
        }
    return value


def _to_integer(value: object, hint: object) -> object:
    """Convert a float without a fraction to int where the field takes integers."""
    if isinstance(value, float) and value.is_integer() and int in _members(hint):
        return int(value)
    return value


def _members(hint: object) -> tuple[object, ...]:
    return get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _find_wrong_field(
    fields: dict[str, object], hints: dict[str, Any]
) -> tuple[object, str, list[type]] | None:
    for name, value in fields.items():
        members = [getattr(one, "__origin__", one) for one in _members(hints.get(name, object))]
        known = [one for one in members if one in GO_TYPES]
        if known and type(value) not in known:
            return value, name, known
    return None


def _plain_error(
    _: type, value: object, field: str | None, expected: Sequence[type]
) -> InvalidInputError:
    if field is None:
        return MalformedBodyError("request body must be a JSON object")
    given = PLAIN_TYPES[type(value)] if not isinstance(value, float) else str(value)
    wanted = " or ".join(PLAIN_TYPES[one] for one in expected)
    return InvalidInputError(f"{field} must be {wanted}, got {given}", field=field)


def _go_error(
    kind: type, value: object, field: str | None, expected: Sequence[type]
) -> InvalidInputError:
    given = KINDS[type(value)]
    if isinstance(value, float) and expected[0] is int:
        given = f"number {value}"
    name = _to_go_name(kind)
    place = "value of type api." + name
    if field is not None:
        place = f"struct field {name}.{field} of type {GO_TYPES[expected[0]]}"
    return InvalidInputError(f"json: cannot unmarshal {given} into Go {place}")


def _to_go_name(kind: type) -> str:
    """Return Ollama's name of a body: ``EmbedRequest`` for ``EmbedBody``."""
    return kind.__name__.removesuffix("Body") + "Request"
