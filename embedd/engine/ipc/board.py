"""What a worker has begun to compute, where its death does not erase it."""

import mmap
import os
import struct
from typing import BinaryIO, Self

# Of the batches that a worker has at a time, no two are so far apart.
PLACES = 4096
ID = struct.Struct("=q")


class Board:
    """Memory that the server shares with one worker; the worker writes, the server reads.

    A frame for every batch that begins would wake the server while the cores compute; the
    answer matters only when the worker has died.

    Args:
        file: Of a descriptor that both have.
    """

    def __init__(self, file: int) -> None:
        self._memory = mmap.mmap(file, ID.size * PLACES)

    @classmethod
    def create(cls, file: BinaryIO) -> Self:
        """A board in the empty *file*, which the worker gets too."""
        os.truncate(file.fileno(), ID.size * PLACES)
        return cls(file.fileno())

    def mark(self, id_: int) -> None:
        """The batch *id_*, which is above 0, begins."""
        ID.pack_into(self._memory, ID.size * (id_ % PLACES), id_)

    def has(self, id_: int) -> bool:
        """Whether the batch *id_* has begun."""
        [marked] = ID.unpack_from(self._memory, ID.size * (id_ % PLACES))
        return bool(marked == id_)

    def close(self) -> None:
        """Let the memory go."""
        self._memory.close()
