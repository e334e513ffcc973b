"""llama.cpp's shape of an error, and its statuses."""

from collections.abc import Mapping
from typing import Final

from msgspec import UNSET, Struct, UnsetType, structs

from embedd import errors
from embedd.server.dialects.base import Failure
from embedd.server.dialects.common.error_text import phrase

TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
    504: "server_error",
}

STATUSES: Final[Mapping[type[errors.EmbeddError], int]] = {
    errors.InvalidModelNameError: 404,
    errors.UnsupportedError: 501,
}


class Fault(Struct, frozen=True, kw_only=True):
    """The error itself; *n_prompt_tokens* and *n_ctx* of an input that is too long."""

    code: int
    message: str
    type: str
    n_prompt_tokens: int | UnsetType | None = UNSET
    n_ctx: int | UnsetType | None = UNSET


class ErrorReply(Struct, frozen=True, kw_only=True):
    """llama.cpp's envelope; *error_type* is for TEI's clients where they ask for the health."""

    error: Fault
    error_type: str | UnsetType = UNSET


def to_error(failure: Failure) -> ErrorReply:
    """The envelope with llama.cpp's types of errors."""
    error = failure.error
    fault = Fault(
        code=failure.status,
        message=phrase(error, failure.request_id),
        type=TYPES.get(failure.status, "invalid_request_error"),
    )
    match error:
        case errors.InputTooLongError():
            fault = Fault(
                code=failure.status,
                message=f"input ({error.tokens} tokens) is too large to process: "
                f"input[{error.index}], the limit is {error.limit}",
                type="exceed_context_size_error",
                n_prompt_tokens=error.tokens,
                n_ctx=error.limit,
            )
        case errors.EmptyInputError():
            fault = structs.replace(fault, message="Input content cannot be empty")
    return ErrorReply(error=fault)
