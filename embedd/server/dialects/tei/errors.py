"""TEI's shape of an error, and its statuses."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from embedd import errors
from embedd.server.dialects.base import Failure
from embedd.server.dialects.common.error_text import phrase

TYPES: Final[Mapping[type[errors.EmbeddError], str]] = {
    errors.RequestError: "Validation",
    errors.EmptyInputError: "Empty",
    errors.InvalidTokenIdError: "Tokenizer",
    errors.UnauthorizedError: "Unauthorized",
    errors.ForbiddenError: "Forbidden",
    errors.UnsupportedError: "Backend",
    errors.OverloadedError: "Overloaded",
    errors.UnavailableError: "Unhealthy",
    errors.DeadlineError: "Backend",
    errors.EmbeddError: "Backend",
}

STATUSES: Final[Mapping[type[errors.EmbeddError], int]] = {
    errors.InvalidInputError: 422,
    errors.InputTooLongError: 422,
    errors.MalformedBodyError: 400,
    errors.EmptyInputError: 400,
    errors.InvalidModelNameError: 404,
    errors.UnsupportedError: 424,
    errors.OverloadedError: 429,
    errors.ServiceError: 424,
    errors.EmbeddError: 424,
}


class ErrorReply(Struct, frozen=True, kw_only=True):
    """``{"error", "error_type"}``; *error* is llama.cpp's object in the answer of ``/ping``."""

    error: str | dict[str, Any]
    error_type: str


def to_error(failure: Failure) -> ErrorReply:
    """The error with the type that TEI's clients know."""
    error = failure.error
    kind = next(TYPES[one] for one in type(error).__mro__ if one in TYPES)
    return ErrorReply(error=_phrase(error, failure.request_id), error_type=kind)


def _phrase(error: errors.EmbeddError, request_id: str) -> str:
    match error:
        case errors.InputTooLongError():
            return f"`inputs` must have less than {error.limit} tokens. Given: {error.tokens}"
        case errors.TooManyInputsError():
            return f"batch size {error.count} > maximum allowed batch size {error.limit}"
        case errors.NotARerankerError():
            return "model is not a re-ranker model"
        case errors.WrongModelError():
            hint = ": it is a reranker, use rerank" if error.is_reranker else ""
            return f"Model is not an embedding model{hint}"
        case errors.OverloadedError():
            return "Model is overloaded"
        case _:
            return phrase(error, request_id)
