"""Cohere's shape of an error."""

from msgspec import Struct

from embedd.errors import InputTooLongError
from embedd.server.dialects.base import Failure
from embedd.server.dialects.common.error_text import phrase


class ErrorReply(Struct, frozen=True, kw_only=True):
    """``{"id", "message"}``: *id* is the request's id in the log."""

    id: str
    message: str


def to_error(failure: Failure) -> ErrorReply:
    """The message begins as Cohere's own do."""
    message = phrase(failure.error, failure.request_id)
    if isinstance(failure.error, InputTooLongError):
        message = f"too many tokens: {message}"
    elif failure.status == 400:
        message = f"invalid request: {message}"
    return ErrorReply(id=failure.request_id, message=message)
