"""The bytes of all bodies or answers in flight, and the share that one client may hold."""

from typing import Final

from embedd.errors import OverloadedError

BODIES_IN_FLIGHT: Final = "EMBEDD_MAX_BODY_IN_FLIGHT"


class BytesInFlight:
    """Counts the bytes of bodies, of each client's address and of all together.

    One address may hold half of *limit*, so that uploads that stall do not lock out other
    clients. In that half a body may be no larger than what it leaves free: so large bodies
    do not lock out small ones of the same address, which all clients behind a proxy share.

    Args:
        limit: Bytes of all bodies; the only body of all may have more, and the only body of an
            address more than its half.
        what: Is counted, in messages.
        setting: Sets the limit.
    """

    def __init__(
        self, limit: int, *, what: str = "request bodies", setting: str = BODIES_IN_FLIGHT
    ) -> None:
        self._limit = limit
        self._what = what
        self._setting = setting
        self._total = 0
        self._of_address: dict[str, int] = {}

    def add(self, address: str, count: int, size: int) -> None:
        """Count *count* more bytes of a body that has *size* bytes with them.

        They are counted even if this raises, until `remove`.

        Raises:
            OverloadedError: They are too many.
        """
        self._total += count
        own = self._of_address[address] = self._of_address.get(address, 0) + count
        if size < self._total > self._limit:
            raise OverloadedError(
                f"too many bytes of {self._what} are in flight: the limit is "
                f"{self._limit} ({self._setting}): try again later"
            )
        if own > size and own + size > self._limit // 2:
            raise OverloadedError(
                f"too many bytes of {self._what} from your address are in flight: its share is "
                f"{self._limit // 2} (half of {self._setting}): try again later"
            )

    def remove(self, address: str, size: int) -> None:
        """Forget *size* bytes of *address*, whose request has ended."""
        self._total -= size
        left = self._of_address.get(address, 0) - size
        if left:
            self._of_address[address] = left
        else:
            self._of_address.pop(address, None)
