"""Ollama's shape of an error: the texts that its clients compare, and its statuses."""

from collections.abc import Mapping
from typing import Final

from embedd import errors
from embedd.ollama_api import ErrorReply
from embedd.server.dialects.base import Failure
from embedd.server.http.json_out import dump

STATUSES: Final[Mapping[type[errors.EmbeddError], int]] = {
    errors.LoadTimeoutError: 500,
    errors.InsufficientMemoryError: 500,
    errors.UnsupportedError: 501,
    errors.PullError: 500,
}
WAYS_OUT: Final[Mapping[type[errors.EmbeddError], str]] = {
    errors.TooManyInputsError: " (EMBEDD_MAX_OLLAMA_INPUTS): send fewer at a time",
}


def to_error(failure: Failure) -> ErrorReply:
    """``{"error": text}``, and the facts of the error beside it."""
    return _to_reply(failure.error)


def to_error_line(error: errors.EmbeddError) -> bytes:
    """The last line of a stream that failed, without its end."""
    return dump(_to_reply(error))


def _to_reply(error: errors.EmbeddError) -> ErrorReply:
    return ErrorReply(
        error=_phrase(error), index=error.index, tokens=error.tokens, limit=error.limit
    )


def _phrase(error: errors.EmbeddError) -> str:
    match error:
        case errors.InputTooLongError(limit=int(limit), special=special) if limit <= special:
            return "input after truncation exceeds maximum context length"
        case errors.InputTooLongError():
            return "the input length exceeds the context length"
        case errors.InvalidModelNameError() if not str(error).startswith("use either "):
            return "invalid model name"
        case errors.UnauthorizedError():
            return f"unauthorized: {error}"
        case errors.OverloadedError():
            return "server busy, please try again.  maximum pending requests exceeded"
        case _:
            return str(error) + WAYS_OUT.get(type(error), "")
