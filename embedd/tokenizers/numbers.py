"""Arrays of ids or places that become one."""

from typing import Final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int32]

FEW: Final = 1 << 16  # numbers that are kept as arrays until they are joined


class Joiner:
    """Joins arrays of int32, flat, in the order in which they are added.

    What is joined from many does not exist twice meanwhile: a text of 64 MiB may have as many ids.

    Args:
        parts: The first ones.
    """

    def __init__(self, *parts: Numbers) -> None:
        self._parts = [*parts]
        self._waiting = 0
        self._data = bytearray()

    def add(self, part: Numbers) -> None:
        """Append *part*."""
        self._parts.append(part)
        self._waiting += part.size
        if self._waiting > FEW:
            self._gather()

    def join(self) -> Numbers:
        """Return all numbers; nothing can be added any more."""
        if self._data:
            self._gather()
            return np.frombuffer(self._data, np.int32)
        if len(self._parts) == 1:
            return self._parts[0].reshape(-1)
        parts = [part.reshape(-1) for part in self._parts]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def _gather(self) -> None:
        for part in self._parts:
            self._data += part.tobytes()  # which then grows in place
        self._parts.clear()
        self._waiting = 0
