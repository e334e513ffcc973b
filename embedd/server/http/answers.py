"""The bytes of all answers in flight: inputs, and vectors or tokens, until they are sent."""

from collections.abc import Callable
from typing import Final

from aiohttp import web

from embedd.server.http.in_flight import BytesInFlight

_CLAIMED: Final = web.RequestKey("claimed", int)


class AnswersInFlight:
    """A limit on what requests hold while they are computed and answered.

    A client that does not read its answer holds it until it is disconnected: one address may
    hold half of *limit*, see `BytesInFlight`.

    Args:
        limit: Bytes; the only answer of all may have more.
    """

    def __init__(self, limit: int) -> None:
        self._in_flight = BytesInFlight(limit, what="answers", setting="EMBEDD_MAX_ANSWER")

    def claim(self, request: web.Request, size: int) -> None:
        """Count *size* bytes as in flight until *request* is answered, and no longer fewer.

        Raises:
            OverloadedError: Too many bytes are in flight.
        """
        held = request.get(_CLAIMED, 0)
        if size > held:
            request[_CLAIMED] = size
            self._in_flight.add(request.remote or "", size - held, size)

    def release(self, request: web.Request) -> None:
        """Count what *request* claimed no longer: it is answered, or its client has left."""
        if held := request.get(_CLAIMED, 0):
            self._in_flight.remove(request.remote or "", held)


ANSWERS: Final = web.AppKey("answers", AnswersInFlight)


def claim_for(request: web.Request, body: int) -> Callable[[int], None]:
    """Return the function that claims bytes for the answer of *request*.

    Args:
        body: Bytes of its body, whose inputs are held as long, and are claimed at once.

    Raises:
        OverloadedError: As `AnswersInFlight.claim`.
    """
    answers = request.app[ANSWERS]
    answers.claim(request, body)
    return lambda size: answers.claim(request, body + size)
