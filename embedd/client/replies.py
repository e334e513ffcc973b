"""Answers of a server: decoded, or the errors that they mean."""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TypeVar

import aiohttp
import msgspec

from embedd import ollama_api as api
from embedd.errors import (
    EmbeddError,
    ForbiddenError,
    InvalidInputError,
    ModelNotFoundError,
    OverloadedError,
    RequestError,
    ServiceError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedError,
)

T = TypeVar("T")

_ERRORS: Mapping[int, type[EmbeddError]] = {
    400: InvalidInputError,
    401: UnauthorizedError,
    403: ForbiddenError,
    413: TooLargeError,
    501: UnsupportedError,
}
_LONGEST_TEXT = 200  # characters of a plain text that is printed as an error


def count_cut(header: str) -> int:
    """Return how many inputs were cut: ``X-Embedd-Truncated`` has ``count=3; …`` or indices."""
    first = header.partition(";")[0]
    if first.startswith("count="):
        return int(first.removeprefix("count="))
    return len(header.split(",")) if header else 0


async def split_lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of an answer, which may be longer than aiohttp's own reader accepts."""
    pieces: list[bytes] = []
    async for chunk in response.content.iter_any():
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join([*pieces, end])
            pieces.clear()
        pieces.append(rest)
    if any(pieces):
        yield b"".join(pieces)


async def check(response: aiohttp.ClientResponse, model: str) -> None:
    """Raise the error that the server answered, if any; *model* is the one in the request."""
    if response.status < 400:
        return
    from_api, body = is_ours(response), await response.read()
    reply = _decode_error(body) if from_api else _describe_status(response, body)
    if response.status == 404 and from_api:
        raise _not_found(model, reply.error)
    if response.status in {429, 503}:
        raise OverloadedError(reply.error, retry_after=_retry_after(response))
    if response.status in {502, 504} and not from_api:  # of a proxy
        raise UnavailableError(reply.error)
    kind = _ERRORS.get(response.status, RequestError if response.status < 500 else ServiceError)
    raise kind(reply.error, index=reply.index, tokens=reply.tokens, limit=reply.limit)


def is_ours(response: aiohttp.ClientResponse) -> bool:
    """Whether an API made the answer, and not a proxy or another program."""
    return response.content_type == "application/json"


def _describe_status(response: aiohttp.ClientResponse, body: bytes) -> api.ErrorReply:
    """An error that is not embedd's: its line of plain text, or its status; never a page."""
    text = body[: 4 * _LONGEST_TEXT].decode(errors="replace").strip()
    is_line = response.content_type == "text/plain" and text.isprintable()
    if is_line and 0 < len(text) <= _LONGEST_TEXT:
        return api.ErrorReply(error=text)
    what = f"{response.url.origin()} answered {response.status} {response.reason}"
    return api.ErrorReply(error=f"{what}: is it an embedd server?")


def _decode_error(body: bytes) -> api.ErrorReply:
    """The error of Ollama's routes, or of OpenAI's, where its facts are in an object."""
    with suppress(msgspec.MsgspecError):
        fault = msgspec.json.decode(body, type=api.OpenAIErrorReply).error
        return api.ErrorReply(
            error=fault.message, index=fault.index, tokens=fault.tokens, limit=fault.limit
        )
    return decode(body, api.ErrorReply)


def _not_found(model: str, text: str) -> ModelNotFoundError:
    """The error of any route, each of which has its own text; what may be meant ends all."""
    _, _, rest = text.partition("not found")
    hint = rest.removeprefix(", try pulling it first").removeprefix(": ")
    return ModelNotFoundError(model, text, hint=hint)


def _retry_after(response: aiohttp.ClientResponse) -> int:
    text = response.headers.get("Retry-After", "")
    return max(1, int(text)) if text.isdecimal() else 1


def decode(data: bytes, kind: type[T]) -> T:
    """Return the body of an answer.

    Raises:
        ServiceError: It is no *kind*.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ServiceError(f"the server's reply is not understood: {error}") from error
