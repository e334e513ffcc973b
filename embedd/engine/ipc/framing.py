"""Frames between the server and a worker.

A frame is ``length: u32 | header length: u32 | msgpack header | raw array``, both
lengths in native byte order (the two ends share a machine); ``length`` counts what
follows it. Every message has at most one array: token ids as int32, vectors as
float32 or the bytes of a file.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from embedd.engine.ipc.messages import to_header
from embedd.errors import EngineError
from embedd.types import Located, TokenIds

MAX_FRAME = 1 << 30
PREFIX = struct.Struct("=II")


def make_frame(
    message: msgspec.Struct, array: npt.NDArray[Any] | None = None
) -> list[bytes | memoryview]:
    """The parts of a frame, to be written one after the other.

    Raises:
        EngineError: The frame would be longer than `MAX_FRAME`.
    """
    header = to_header(message)
    payload = memoryview(b"") if array is None else array.ravel().data.cast("B")
    length = 4 + len(header) + payload.nbytes
    if length > MAX_FRAME:
        raise EngineError(f"a message to a worker has {length} bytes, the limit is {MAX_FRAME}")
    return [PREFIX.pack(length, len(header)), header, payload]


def parse_prefix(prefix: bytes | memoryview) -> tuple[int, int]:
    """(header length, array length) of the frame that starts with these 8 bytes.

    Raises:
        EngineError: The lengths contradict each other or `MAX_FRAME`.
    """
    length, header = PREFIX.unpack(prefix)
    if length > MAX_FRAME or header + 4 > length:
        raise EngineError(f"broken frame: length {length}, header length {header}")
    return header, length - 4 - header


def split_ids(array: bytes | memoryview, lengths: Sequence[int]) -> list[TokenIds]:
    """Split *array*, which holds int32 token ids end to end, into sequences of *lengths*."""
    ids = np.frombuffer(array, np.int32)
    ends = accumulate(lengths)
    return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def split_located(array: bytes | memoryview, lengths: Sequence[int]) -> list[Located]:
    """Split *array*, which holds the ids of sequences of *lengths*, then the places of each id."""
    numbers = np.frombuffer(array, np.int32)
    places = numbers[sum(lengths) :].reshape(-1, 2)
    ends = list(accumulate(lengths))
    return [
        (numbers[end - length : end], places[end - length : end])
        for end, length in zip(ends, lengths, strict=True)
    ]
