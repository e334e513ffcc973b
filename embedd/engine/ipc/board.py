"""Which batches a worker has begun to compute, in memory that outlives the worker."""

import mmap
import os
import struct
from typing import BinaryIO, Self

# The ids of the batches that a worker has at a time differ by less than this.
PLACES = 4096
ID = struct.Struct("=q")


class Board:
    """Memory that the server shares with one worker: the worker writes, the server reads.

    A frame for every batch that begins would wake the server while the cores compute; the
    answer matters only when the worker has died.

    Args:
        file: File descriptor that both processes have.
    """

    def __init__(self, file: int) -> None:
        self._memory = mmap.mmap(file, ID.size * PLACES)

    @classmethod
    def create(cls, file: BinaryIO) -> Self:
        """Make a board in the empty *file*, whose descriptor the worker gets too."""
        os.truncate(file.fileno(), ID.size * PLACES)
        return cls(file.fileno())

    def mark(self, id_: int) -> None:
        """Record that the batch *id_*, which is above 0, begins."""
        ID.pack_into(self._memory, ID.size * (id_ % PLACES), id_)

    def has(self, id_: int) -> bool:
        """Whether the batch *id_* has begun."""
        [marked] = ID.unpack_from(self._memory, ID.size * (id_ % PLACES))
        return bool(marked == id_)

    def close(self) -> None:
        """Unmap the memory."""
        self._memory.close()
