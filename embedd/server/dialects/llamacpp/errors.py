"""llama.cpp's shape of an error, and its statuses."""

from collections.abc import Mapping
from typing import Final

from embedd import errors
from embedd.server.dialects.base import Failure
from embedd.server.dialects.common.error_text import phrase
from embedd.server.http.json_out import dump

TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    404: "not_found_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
}

STATUSES: Final[Mapping[type[errors.EmbeddError], int]] = {
    errors.InvalidModelNameError: 404,
    errors.UnsupportedError: 501,
}


def to_error(failure: Failure) -> bytes:
    """``{"error": {"code", "message", "type"}}``; of a text that is too long also its tokens."""
    error = failure.error
    body: dict[str, object] = {
        "code": failure.status,
        "message": phrase(error, failure.request_id),
        "type": TYPES.get(failure.status, "invalid_request_error"),
    }
    match error:
        case errors.InputTooLongError():
            body |= {
                "message": f"input ({error.tokens} tokens) is too large to process: "
                f"input[{error.index}], the limit is {error.limit}",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": error.tokens,
                "n_ctx": error.limit,
            }
        case errors.EmptyInputError():
            body["message"] = "Input content cannot be empty"
    return dump({"error": body})
