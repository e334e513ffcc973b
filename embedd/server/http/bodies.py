"""Request bodies: read within bounds, decoded leniently.

Two roads. The fast one is msgspec's typed decoder. What it refuses goes the slow road:
the standard library's parser, which takes what clients really send (a byte order mark,
bytes after the value, ``256.0`` for an integer, lone surrogates), and the same decoder
again; only then is the body wrong, and the message says where: in Go's words, because
Ollama's clients know them, or in plain ones.
"""

import json
import math
import types
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec
from aiohttp import web

from embedd.errors import (
    InvalidInputError,
    MalformedBodyError,
    OverloadedError,
    TooLargeError,
)
from embedd.server.http.decompress import read_decompressed

Body = TypeVar("Body", bound=msgspec.Struct)

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
# Of a request whose body was read to choose its dialect.
ALREADY_READ: Final = web.RequestKey("body", bytes)
DEEPEST = 200  # levels of nesting; the standard library's parser recurses

# (body, value, field or None for the whole body, type it should have) → the error
Refuse: TypeAlias = Callable[[type, object, str | None, type], InvalidInputError]


class BodyLimits:
    """Bounds on request bytes: of one body, and of all bodies in work.

    Args:
        one: Bytes of one body, decompressed.
        all_: Bytes of all bodies together.
    """

    def __init__(self, *, one: int, all_: int) -> None:
        self._one = one
        self._all = all_
        self._in_flight = 0

    @asynccontextmanager
    async def read(self, request: web.Request) -> AsyncIterator[bytes]:
        """The whole body; its bytes count as in flight until the block ends.

        Raises:
            MalformedBodyError: It is not encoded as its headers say.
            TooLargeError: Longer than one body may be.
            OverloadedError: Too many bytes are in flight.
        """
        if ALREADY_READ in request:  # counted by who read it
            yield request[ALREADY_READ]
            return
        if (request.content_length or 0) > self._one:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        try:
            async with aclosing(read_decompressed(request)) as pieces:
                async for piece in pieces:
                    size += len(piece)
                    self._in_flight += len(piece)
                    if size > self._one:
                        raise self._too_large()
                    # A body that is alone always fits, whatever the limits are.
                    if self._in_flight > self._all and self._in_flight > size:
                        raise OverloadedError("too many bytes of request bodies are in flight")
                    chunks.append(piece)
            yield b"".join(chunks)
        finally:
            self._in_flight -= size

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"request body too large: the limit is {self._one} bytes (EMBEDD_MAX_BODY)",
            limit=self._one,
        )


def decode(body: bytes, kind: type[Body]) -> Body:
    """The body as *kind*, whose name is the one that messages use, in Go's words.

    Raises:
        InvalidInputError: No body, no JSON, or a field of the wrong type.
    """
    return _decode(body, kind, _refuse_in_go)


def decode_plainly(body: bytes, kind: type[Body]) -> Body:
    """As `decode`, with messages that name the field in plain words."""
    return _decode(body, kind, _refuse_plainly)


def field_names(body: bytes) -> frozenset[str]:
    """Fields of the JSON object *body* that are not null; none if it is no object.

    Raises:
        MalformedBodyError: No body or no JSON.
    """
    try:
        raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return frozenset(name for name, value in raw.items() if bytes(value) != b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = parse_leniently(body)
    fields = value if isinstance(value, dict) else {}
    return frozenset(name for name, value in fields.items() if value is not None)


def _decode(body: bytes, kind: type[Body], refuse: Refuse) -> Body:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    value = parse_leniently(body)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise refuse(kind, value, None, dict)
    hints = get_type_hints(kind)
    fields = {name: _integral(field, hints.get(name)) for name, field in value.items()}
    fields = {name: field for name, field in fields.items() if field is not None}
    try:
        return msgspec.json.decode(msgspec.json.encode(fields), type=kind)
    except msgspec.ValidationError as error:
        wrong = _find_wrong(fields, hints)
        raise (refuse(kind, *wrong) if wrong else InvalidInputError(str(error))) from None


def parse_leniently(body: bytes) -> object:
    """The first JSON value in *body*, as the standard library reads it.

    What is not UTF-8 becomes U+FFFD, lone surrogates too.

    Raises:
        MalformedBodyError: No body or no JSON.
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
    return _scrub(value, DEEPEST)


def _too_deep() -> MalformedBodyError:
    return MalformedBodyError(f"invalid JSON in request body: more than {DEEPEST} levels")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_parse_float, parse_constant=_refuse_constant)


def _scrub(value: object, depth: int) -> object:
    """Lone surrogates become U+FFFD: no UTF-8 can hold them."""
    if not depth:
        raise _too_deep()
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_scrub(one, depth - 1) for one in value]
    if isinstance(value, dict):
        return {_scrub(k, depth - 1): _scrub(v, depth - 1) for k, v in value.items()}
    return value


def _integral(value: object, hint: object) -> object:
    """A float without fraction, where the field takes integers, is that integer."""
    if isinstance(value, float) and value.is_integer() and int in _members(hint):
        return int(value)
    return value


def _members(hint: object) -> tuple[object, ...]:
    return get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _find_wrong(
    fields: dict[str, object], hints: dict[str, Any]
) -> tuple[object, str, type] | None:
    for name, value in fields.items():
        members = [getattr(one, "__origin__", one) for one in _members(hints.get(name, object))]
        known = [one for one in members if one in GO_TYPES]
        if known and type(value) not in known:
            return value, name, known[0]
    return None


def _refuse_plainly(_: type, value: object, field: str | None, wanted: type) -> InvalidInputError:
    if field is None:
        return MalformedBodyError("request body must be a JSON object")
    given = PLAIN_TYPES[type(value)] if not isinstance(value, float) else str(value)
    return InvalidInputError(f"{field} must be {PLAIN_TYPES[wanted]}, got {given}", field=field)


def _refuse_in_go(kind: type, value: object, field: str | None, wanted: type) -> InvalidInputError:
    given = KINDS[type(value)]
    if isinstance(value, float) and wanted is int:
        given = f"number {value}"
    name = _to_go_name(kind)
    place = "value of type api." + name
    if field is not None:
        place = f"struct field {name}.{field} of type {GO_TYPES[wanted]}"
    return InvalidInputError(f"json: cannot unmarshal {given} into Go {place}")


def _to_go_name(kind: type) -> str:
    """What Ollama calls the body: ``EmbedBody`` is its ``EmbedRequest``."""
    return kind.__name__.removesuffix("Body") + "Request"
