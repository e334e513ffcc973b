"""OpenAI's shape of an error, and its statuses: for all dialects that answer like OpenAI."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from embedd import errors
from embedd.server.dialects.base import Failure
from embedd.server.dialects.common.error_text import phrase


class Fault(Struct, frozen=True, kw_only=True):
    """The error itself; *index*, *tokens* and *limit* where one input is at fault."""

    message: str
    type: str
    param: str | None
    code: str | None
    index: int | UnsetType = UNSET
    tokens: int | UnsetType = UNSET
    limit: int | UnsetType = UNSET


class ErrorReply(Struct, frozen=True, kw_only=True):
    """OpenAI's envelope; *detail* repeats the message for voyageai, *message* for cohere."""

    error: Fault
    detail: str
    message: str | UnsetType = UNSET


class Kind(NamedTuple):
    """The words by which clients distinguish errors."""

    type: str
    code: str | None


KINDS: Final[Mapping[type[errors.EmbeddError], Kind]] = {
    errors.RequestError: Kind("invalid_request_error", None),
    errors.InputTooLongError: Kind("invalid_request_error", "context_length_exceeded"),
    errors.UnauthorizedError: Kind("invalid_request_error", "invalid_api_key"),
    errors.ForbiddenError: Kind("invalid_request_error", "insufficient_permissions"),
    errors.ModelNotFoundError: Kind("not_found_error", "model_not_found"),
    errors.InvalidModelNameError: Kind("not_found_error", "model_not_found"),
    errors.UnsupportedError: Kind("invalid_request_error", "model_not_supported"),
    errors.UnsupportedValueError: Kind("invalid_request_error", "unsupported_value"),
    errors.TooLargeError: Kind("invalid_request_error", "request_too_large"),
    errors.OverloadedError: Kind("rate_limit_error", "rate_limit_exceeded"),
    errors.UnavailableError: Kind("api_error", "unavailable"),
    errors.DeadlineError: Kind("api_error", "timeout"),
    errors.EmbeddError: Kind("api_error", None),
}

STATUSES: Final[Mapping[type[errors.EmbeddError], int]] = {
    errors.InvalidModelNameError: 404,
    errors.OverloadedError: 429,
}


def to_error(failure: Failure) -> ErrorReply:
    """The envelope; ``detail`` is the only key that voyageai reads."""
    error = failure.error
    message = phrase(error, failure.request_id)
    kind = next(KINDS[one] for one in type(error).__mro__ if one in KINDS)
    has_input = error.index is not None
    fault = Fault(
        message=message,
        type=kind.type,
        param=error.field,
        code=kind.code,
        index=_known(error.index),
        tokens=_known(error.tokens if has_input else None),
        limit=_known(error.limit if has_input else None),
    )
    return ErrorReply(error=fault, detail=message)


def _known(number: int | None) -> int | UnsetType:
    return UNSET if number is None else number
