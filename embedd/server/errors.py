"""Errors as HTTP answers: their statuses, headers and log lines."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from embedd import errors
from embedd.logs import MAX_REASON
from embedd.server.http.request_id import request_id

log = logging.getLogger(__name__)

OVERLOAD_INTERVAL: Final = 1.0  # seconds between two log lines of overload

STATUSES: Mapping[type[errors.EmbeddError], int] = {
    errors.RequestError: 400,
    errors.ModelNotFoundError: 404,
    errors.UnknownRouteError: 404,
    errors.WrongMethodError: 405,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.TooLargeError: 413,
    errors.StalledBodyError: 408,
    errors.UnavailableError: 503,
    errors.DeadlineError: 504,
    errors.ServiceError: 500,
    errors.PullError: 502,
    errors.EmbeddError: 500,
}


def choose_status(
    error: errors.EmbeddError, overrides: Mapping[type[errors.EmbeddError], int]
) -> int:
    """Return the status of the nearest base class in *overrides* or `STATUSES`."""
    for kind in type(error).__mro__:
        for table in (overrides, STATUSES):
            if issubclass(kind, errors.EmbeddError) and kind in table:
                return table[kind]
    return 500


def retry_headers(error: errors.EmbeddError, status: int) -> dict[str, str]:
    """Return ``Retry-After`` if *status* is 429 or 503."""
    if status not in (429, 503):
        return {}
    return {"Retry-After": str(getattr(error, "retry_after", 1))}


def error_headers(error: errors.EmbeddError, status: int) -> dict[str, str]:
    """Return the headers that belong to an error."""
    headers = retry_headers(error, status)
    if isinstance(error, errors.UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.WrongMethodError):
        headers["Allow"] = ",".join(error.allowed)
    # Clients retry on 5xx: not where an input can never be computed.
    if status == 501 or (status == 500 and error.index is not None):
        headers["x-should-retry"] = "false"
    return headers


class OverloadLog:
    """Chooses which requests are logged that were refused because of overload.

    At most one a second: a line for each would take from the processors what is overloaded.

    Args:
        clock: Present time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged: float | None = None
        self._omitted = 0

    def take_omitted(self) -> int | None:
        """Return how many were not logged since the last one was; None if this one is not."""
        now = self._clock()
        if self._logged is not None and now - self._logged < OVERLOAD_INTERVAL:
            self._omitted += 1
            return None
        self._logged = now
        omitted, self._omitted = self._omitted, 0
        return omitted


OVERLOADS: Final = web.AppKey("overloads", OverloadLog)


def log_error(
    request: web.Request, error: errors.EmbeddError, status: int, *, omitted: int = 0
) -> None:
    """Log a rejected or failed request with its reason, never with the client's texts.

    Args:
        omitted: Refusals before this one that were not logged.
    """
    # More memory is the operator's to give, even if another try may succeed.
    is_expected = isinstance(
        error, errors.RequestError | errors.UnavailableError | errors.NoSourceError
    ) and not isinstance(error, errors.InsufficientMemoryError)
    # Errors quote names and durations as sent, which may be long.
    reason = str(error)[:MAX_REASON]
    level = logging.INFO if is_expected else logging.ERROR
    log_refusal(request, status, reason, level=level, omitted=omitted)


def log_refusal(
    request: web.Request,
    status: int,
    reason: str,
    *,
    level: int = logging.INFO,
    omitted: int = 0,
) -> None:
    """Log a request that was answered with *status*; 499: the client went away."""
    facts: dict[str, object] = {
        "method": request.method,
        "path": request.path,
        "status": status,
        "reason": reason,
        "request_id": request_id(request),
    }
    if omitted:
        facts["omitted"] = omitted
    log.log(level, "request failed", extra=facts)
