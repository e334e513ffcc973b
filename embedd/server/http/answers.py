"""The bytes of all answers in flight: inputs, and vectors or tokens, until they are sent."""

from collections.abc import Callable
from typing import Final

from aiohttp import web

from embedd.server.http.in_flight import BytesInFlight


class Claim:
    """The bytes that a request holds until it is answered.

    Args:
        in_flight: Counts them.
        address: Of its client.
    """

    __slots__ = ("address", "held", "in_flight")

    def __init__(self, in_flight: BytesInFlight, address: str) -> None:
        self.in_flight = in_flight
        self.address = address
        self.held = 0

    def raise_to(self, size: int) -> None:
        """Hold *size* bytes, if it is more than before.

        Raises:
            OverloadedError: Too many bytes are in flight.
        """
        if size > self.held:
            more, self.held = size - self.held, size
            self.in_flight.add(self.address, more, size)


_CLAIM: Final = web.RequestKey("claim", Claim)


class AnswersInFlight:
    """A limit on what requests hold while they are computed and answered.

    A client that does not read its answer holds it until it is disconnected: one address may
    hold half of *limit*, see `BytesInFlight`.

    Args:
        limit: Bytes; the only answer of all may have more.
    """

    def __init__(self, limit: int) -> None:
        self._in_flight = BytesInFlight(limit, what="answers", setting="EMBEDD_MAX_ANSWER")

    def open_claim(self, request: web.Request) -> Claim:
        """Return the claim of *request*, which counts until `release`."""
        claim = request.get(_CLAIM)
        if claim is None:
            claim = request[_CLAIM] = Claim(self._in_flight, request.remote or "")
        return claim

    def release(self, request: web.Request) -> None:
        """Count what *request* claimed no longer: it is answered, or its client has left."""
        claim = request.get(_CLAIM)
        if claim is not None and claim.held:
            self._in_flight.remove(claim.address, claim.held)
            claim.held = 0


ANSWERS: Final = web.AppKey("answers", AnswersInFlight)


def claim_for(request: web.Request, body: int) -> Callable[[int], None]:
    """Return the function that claims bytes for the answer of *request*.

    Args:
        body: Bytes of its body, whose inputs are held as long, and are claimed at once.

    Raises:
        OverloadedError: As `Claim.raise_to`.
    """
    claim = request.app[ANSWERS].open_claim(request)
    claim.raise_to(body)
    return lambda size: claim.raise_to(body + size)
