"""What a worker has begun to do, in memory that outlives the worker."""

import mmap
import os
import struct
import sys
from enum import IntEnum
from typing import BinaryIO, Self, cast

# The ids of the batches that a worker has at a time differ by less than this.
PLACES = 4096
ID = struct.Struct("=q")


def open_memory() -> BinaryIO:
    """Return an empty file for a board: of memory, where the system has such files.

    One in a folder needs a folder that can be written, and a full disk ends who writes to it.
    """
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("embedd-board"), "w+b")
    import tempfile  # noqa: PLC0415 - imports much, and no worker on Linux needs it

    return cast("BinaryIO", tempfile.TemporaryFile())  # the caller closes it


class Place(IntEnum):
    """The threads of a worker that tokenize, each of which has one call at a time."""

    READER = PLACES
    TOKENIZER = PLACES + 1


class Board:
    """Memory that the server shares with one worker: the worker writes, the server reads.

    A frame for every batch that begins would wake the server while the cores compute; the
    answer matters only when the worker has died or hangs.

    Args:
        file: File descriptor that both processes have.
    """

    def __init__(self, file: int) -> None:
        self._memory = mmap.mmap(file, ID.size * (PLACES + len(Place)))

    @classmethod
    def create(cls, file: BinaryIO) -> Self:
        """Make a board in the empty *file*, whose descriptor the worker gets too."""
        os.truncate(file.fileno(), ID.size * (PLACES + len(Place)))
        return cls(file.fileno())

    def mark(self, id_: int) -> None:
        """Record that the batch *id_*, which is above 0, begins."""
        ID.pack_into(self._memory, ID.size * (id_ % PLACES), id_)

    def mark_tokenizing(self, place: Place, id_: int) -> None:
        """Record that the thread at *place* works on the tokenizer call *id_*; 0 is none."""
        ID.pack_into(self._memory, ID.size * place, id_)

    def has(self, id_: int) -> bool:
        """Whether the batch *id_* has begun, or the tokenizer call *id_* is being answered."""
        return any(self._read(place) == id_ for place in (id_ % PLACES, *Place))

    def close(self) -> None:
        """Unmap the memory."""
        self._memory.close()

    def _read(self, place: int) -> int:
        [id_] = ID.unpack_from(self._memory, ID.size * place)
        return int(id_)
