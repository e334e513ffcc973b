"""The bytes of all request bodies in flight, and the share that one client may hold."""

from collections import Counter

from embedd.errors import OverloadedError


class BytesInFlight:
    """Counts the bytes of bodies, of each client's address and of all together.

    One address may hold half of *limit*, so that uploads that stall do not lock out other
    clients. In that half a body may be no larger than what it leaves free: so large bodies
    do not lock out small ones of the same address, which all clients behind a proxy share.

    Args:
        limit: Bytes of all bodies; the only body of all may have more, and the only body of an
            address more than its half.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._total = 0
        self._of_address: Counter[str] = Counter()

    def add(self, address: str, count: int, size: int) -> None:
        """Count *count* more bytes of a body that has *size* bytes with them.

        They are counted even if this raises, until `remove`.

        Raises:
            OverloadedError: They are too many.
        """
        self._total += count
        self._of_address[address] += count
        if size < self._total > self._limit:
            raise OverloadedError(
                "too many bytes of request bodies are in flight: the limit is "
                f"{self._limit} (EMBEDD_MAX_BODY_IN_FLIGHT)"
            )
        own = self._of_address[address]
        if own > size and own + size > self._limit // 2:
            raise OverloadedError(
                "too many bytes of request bodies from your address are in flight: its share is "
                f"{self._limit // 2} (half of EMBEDD_MAX_BODY_IN_FLIGHT)"
            )

    def remove(self, address: str, size: int) -> None:
        """Forget *size* bytes of *address*, whose request has ended."""
        self._total -= size
        self._of_address[address] -= size
        if not self._of_address[address]:
            del self._of_address[address]
