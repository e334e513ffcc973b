"""A1111's shape of an error."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from embedd import errors
from embedd.server.dialects.base import Failure
from embedd.server.dialects.common.error_text import phrase

STATUSES: Final[Mapping[type[errors.EmbeddError], int]] = {errors.InvalidModelNameError: 404}


class ErrorReply(Struct, frozen=True, kw_only=True):
    """Every 4xx and 5xx: the text twice, because clients read either key."""

    error: str
    detail: str


def to_error(failure: Failure) -> ErrorReply:
    """The error's text."""
    text = phrase(failure.error, failure.request_id)
    return ErrorReply(error=text, detail=text)
