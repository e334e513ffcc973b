"""OpenAI's shape of an error, and its statuses: for all dialects that answer like OpenAI."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from embedd import errors
from embedd.server.dialects.base import Failure
from embedd.server.dialects.common.error_text import phrase
from embedd.server.http.json_out import dump


class Kind(NamedTuple):
    """What clients tell errors apart by."""

    type: str
    code: str | None


KINDS: Final[Mapping[type[errors.EmbeddError], Kind]] = {
    errors.RequestError: Kind("invalid_request_error", None),
    errors.InputTooLongError: Kind("invalid_request_error", "context_length_exceeded"),
    errors.UnauthorizedError: Kind("invalid_request_error", "invalid_api_key"),
    errors.ModelNotFoundError: Kind("not_found_error", "model_not_found"),
    errors.InvalidModelNameError: Kind("not_found_error", "model_not_found"),
    errors.UnsupportedError: Kind("invalid_request_error", "model_not_supported"),
    errors.UnsupportedValueError: Kind("invalid_request_error", "unsupported_value"),
    errors.TooLargeError: Kind("invalid_request_error", "request_too_large"),
    errors.OverloadedError: Kind("rate_limit_error", "rate_limit_exceeded"),
    errors.UnavailableError: Kind("api_error", "unavailable"),
    errors.EmbeddError: Kind("api_error", None),
}

STATUSES: Final[Mapping[type[errors.EmbeddError], int]] = {
    errors.InvalidModelNameError: 404,
    errors.OverloadedError: 429,
}


def to_error(failure: Failure) -> bytes:
    """The envelope as JSON."""
    return dump(to_envelope(failure))


def to_envelope(failure: Failure) -> dict[str, object]:
    """The envelope; ``detail`` repeats the message, the only key that voyageai reads."""
    error = failure.error
    message = phrase(error, failure.request_id)
    kind = next(KINDS[one] for one in type(error).__mro__ if one in KINDS)
    body: dict[str, object] = {
        "message": message,
        "type": kind.type,
        "param": error.field,
        "code": kind.code,
    }
    if error.index is not None:
        facts = {"index": error.index, "tokens": error.tokens, "limit": error.limit}
        body |= {name: fact for name, fact in facts.items() if fact is not None}
    return {"error": body, "detail": message}
