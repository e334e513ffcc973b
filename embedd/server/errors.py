"""Errors to HTTP: one table of statuses, one place where they are logged."""

import logging
from collections.abc import Mapping

from aiohttp import web

from embedd import errors
from embedd.server.http.request_id import request_id

log = logging.getLogger(__name__)

LONGEST_REASON = 500  # characters in the log

STATUSES: Mapping[type[errors.EmbeddError], int] = {
    errors.RequestError: 400,
    errors.ModelNotFoundError: 404,
    errors.UnknownRouteError: 404,
    errors.WrongVerbError: 405,
    errors.UnauthorizedError: 401,
    errors.TooLargeError: 413,
    errors.UnavailableError: 503,
    errors.ServiceError: 500,
    errors.PullError: 502,
    errors.EmbeddError: 500,
}


def choose_status(
    error: errors.EmbeddError, overrides: Mapping[type[errors.EmbeddError], int]
) -> int:
    """The status of the nearest ancestor that *overrides* or the common table names."""
    for kind in type(error).__mro__:
        for table in (overrides, STATUSES):
            if issubclass(kind, errors.EmbeddError) and kind in table:
                return table[kind]
    return 500


def retry_headers(error: errors.EmbeddError, status: int) -> dict[str, str]:
    """``Retry-After`` where a later try makes sense and *status* says so too."""
    if status not in (429, 503):
        return {}
    return {"Retry-After": str(getattr(error, "retry_after", 1))}


def error_headers(error: errors.EmbeddError, status: int) -> dict[str, str]:
    """What a client should know beside the body."""
    headers = retry_headers(error, status)
    if isinstance(error, errors.UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.WrongVerbError):
        headers["Allow"] = ",".join(error.allowed)
    # Clients repeat what got 5xx: one input that cannot be computed never can.
    if status == 501 or (status == 500 and error.index is not None):
        headers["x-should-retry"] = "false"
    return headers


def log_error(request: web.Request, error: errors.EmbeddError, status: int) -> None:
    """One line per refused or failed request, with the cause and never with its texts."""
    callers = isinstance(error, errors.RequestError | errors.UnavailableError)
    # Names and durations are quoted as sent, however long.
    reason = str(error)[:LONGEST_REASON]
    log_refusal(request, status, reason, level=logging.INFO if callers else logging.ERROR)


def log_refusal(
    request: web.Request, status: int, reason: str, *, level: int = logging.INFO
) -> None:
    """One line for a request that got *status*, 499 being none at all."""
    facts = {
        "method": request.method,
        "path": request.path,
        "status": status,
        "reason": reason,
        "request_id": request_id(request),
    }
    log.log(level, "request failed", extra=facts)
