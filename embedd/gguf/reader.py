"""Bounded reading of a GGUF's beginning: numbers, texts, scalars, arrays.

A file is not trusted: every count and length is checked against a limit before anything is
read or kept.
"""

import errno
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from embedd.errors import ModelLoadError
from embedd.gguf.types import STRING, VALUE_TYPES

Scalar: TypeAlias = str | int | float | bool
Array: TypeAlias = list[Scalar]

MAX_HEADER_BYTES: Final = 128 << 20  # a vocabulary of 260,000 with merges takes 16 MB
MAX_KEY_BYTES: Final = 65_535  # the format's own limit
MAX_STRING_BYTES: Final = 4 << 20  # chat templates and licence texts
MAX_ARRAY_LENGTH: Final = 1 << 24

_CHUNK: Final = 1 << 20
_U64: Final = struct.Struct("<Q")


def open_regular(path: Path) -> BinaryIO:
    """Open the file at *path* for reading, without waiting for a writer or a device.

    Raises:
        OSError: It cannot be opened, or is a fifo, a device, a socket or a folder: reading one of
            those may block for ever, or never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


class Reader:
    """Reads numbers and texts from *stream*, and keeps only one chunk of it in memory.

    Raises `ModelLoadError` at the end of the stream, and beyond `MAX_HEADER_BYTES`.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._base = 0  # position in the file of the buffer's first byte

    @property
    def position(self) -> int:
        """Number of bytes read or skipped so far."""
        return self._base + self._at

    def take(self, count: int) -> bytes:
        """The next *count* bytes; the caller has bounded *count*."""
        self._need(count)
        start, self._at = self._at, self._at + count
        return self._buffer[start : self._at]

    def skip(self, count: int) -> None:
        """Skip *count* bytes."""
        check_limit(self.position + count, MAX_HEADER_BYTES, "bytes of header")
        while (left := len(self._buffer) - self._at) < count:
            count -= left
            self._at += left
            self._need(1)
        self._at += count

    def u32(self) -> int:
        """The next 4 bytes as an unsigned number."""
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        """The next 8 bytes as an unsigned number."""
        return int.from_bytes(self.take(8), "little")

    def text(self, limit: int, what: str) -> str:
        """The next string, of at most *limit* bytes; *what* describes them in the error."""
        return self.take(check_limit(self.u64(), limit, what)).decode(errors="replace")

    def scalar(self, number: int, key: str) -> Scalar:
        """The next value of the type *number*, which is not an array."""
        if number == STRING:
            return self.text(MAX_STRING_BYTES, f"bytes in the value of {key!r}")
        code = value_type(number, key)[1]
        value: Scalar = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return value

    def array_head(self, key: str) -> tuple[int, int]:
        """Type and number of the elements of the array that comes next."""
        return self.u32(), check_limit(self.u64(), MAX_ARRAY_LENGTH, f"elements in {key!r}")

    def skip_elements(self, number: int, length: int, key: str) -> None:
        """Skip *length* elements of the type *number*."""
        if number == STRING:
            self._skip_strings(length)
        else:
            self.skip(length * struct.calcsize(f"<{value_type(number, key)[1]}"))

    def elements(self, number: int, length: int, key: str) -> Array:
        """The next *length* elements of the type *number*."""
        if number == STRING:
            return [one.decode(errors="replace") for one in self.strings(length)]
        data = self.numbers(number, length, key)
        return list(struct.unpack(f"<{length}{value_type(number, key)[1]}", data))

    def numbers(self, number: int, length: int, key: str) -> bytes:
        """The bytes of the next *length* numbers of the type *number*."""
        size = length * struct.calcsize(f"<{value_type(number, key)[1]}")
        return self.take(check_limit(size, MAX_HEADER_BYTES, f"bytes in {key!r}"))

    def strings(self, count: int) -> list[bytes]:
        """The next *count* strings, which need not be UTF-8."""
        strings: list[bytes] = []
        while count:
            self._need(8)
            buffer, at, last = self._buffer, self._at, len(self._buffer) - 8
            # Without calls of our own: a vocabulary and its merges are up to 800,000 strings.
            while count and at <= last:
                end = at + 8 + _U64.unpack_from(buffer, at)[0]
                if end > len(buffer):
                    break
                strings.append(buffer[at + 8 : end])
                at = end
                count -= 1
            self._at = at
            if count and at <= last:  # the next string does not end within the buffer
                size = check_limit(self.u64(), MAX_HEADER_BYTES, "bytes in a string")
                strings.append(self.take(size))
                count -= 1
        return strings

    def _skip_strings(self, count: int) -> None:
        while count:
            self._need(8)
            buffer, at, last = self._buffer, self._at, len(self._buffer) - 8
            while count and at <= last:
                at += 8 + _U64.unpack_from(buffer, at)[0]
                count -= 1
            self._at = min(at, len(buffer))
            self.skip(at - self._at)

    def _need(self, count: int) -> None:
        left = len(self._buffer) - self._at
        if left >= count:
            return
        check_limit(self.position + count, MAX_HEADER_BYTES, "bytes of header")
        pieces = [self._buffer[self._at :]]
        while left < count:
            piece = self._stream.read(_CHUNK)
            if not piece:
                end = self.position + left
                raise ModelLoadError(f"the GGUF is truncated: it ends at byte {end}, in its header")
            pieces.append(piece)
            left += len(piece)
        self._base, self._at = self.position, 0
        self._buffer = b"".join(pieces)


def check_limit(value: int, limit: int, what: str) -> int:
    """Return *value*, or raise `ModelLoadError` if it is above *limit*."""
    if value > limit:
        raise ModelLoadError(
            f"not a usable GGUF: {value} {what}, at most {limit} are accepted", limit=limit
        )
    return value


def value_type(number: int, key: str) -> tuple[str, str]:
    """Name and `struct` code of the type *number* of a value, which is not a string or array."""
    if number not in VALUE_TYPES:
        raise ModelLoadError(f"the GGUF's key {key!r} has the unsupported value type {number}")
    return VALUE_TYPES[number]
