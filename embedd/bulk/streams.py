"""Input files as streams of bytes, decompressed on the way."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from embedd.bulk.stores import is_remote, open_remote, without_query
from embedd.errors import InvalidInputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSIONS: Final = (".gz", ".zst")
_UTF_16: Final = "UTF-16, and not UTF-8: convert it, for example with iconv -f UTF-16 -t UTF-8"
_NOT_TEXT: Final = {
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
    b"\x1f\x8b": "compressed (gzip): give its name the ending .gz, or decompress it",
    b"\x28\xb5\x2f\xfd": "compressed (zstd): give its name the ending .zst, or decompress it",
    b"PK\x03\x04": "a ZIP archive: unpack it",
}
HEAD: Final = max(map(len, _NOT_TEXT))  # bytes by which they are known


def split_compression(name: str) -> tuple[str, str]:
    """Return *name* without the ending of a compression, and that ending, empty if it has none."""
    name = without_query(name) if is_remote(name) else name
    for ending in COMPRESSIONS:
        if name.lower().endswith(ending):
            return name[: -len(ending)], ending
    return name, ""


def open_stream(path: str) -> BinaryIO:
    """Return the bytes of the file *path*, decompressed as its ending says."""
    raw, ending = open_file(path), split_compression(path)[1]
    if ending == ".gz":
        return _decompress(gzip.GzipFile(fileobj=raw), raw, path)
    if ending == ".zst":
        return _decompress(zstd.ZstdFile(raw), raw, path)
    return raw


def check_text(head: bytes, name: str) -> None:
    """Check that what begins with the bytes *head* may be a text.

    Raises:
        InvalidInputError: It is of another kind, such as UTF-16 or a compressed file.
    """
    for begin, what in _NOT_TEXT.items():
        if head.startswith(begin):
            raise InvalidInputError(f"{name} is {what}")


def open_file(path: str) -> BinaryIO:
    """Return the bytes of the file *path*, of this machine or of a store."""
    return open_remote(path) if is_remote(path) else Path(path).open("rb")


def _decompress(stream: io.BufferedIOBase, below: BinaryIO, path: str) -> BinaryIO:
    return cast("BinaryIO", io.BufferedReader(_Content(stream, below, path), 1 << 20))


class _Content(io.RawIOBase):
    """The content of the compressed file *below*, which closes with it; errors name its path."""

    def __init__(self, stream: io.BufferedIOBase, below: BinaryIO, path: str) -> None:
        self._stream = stream
        self._below = below
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        with self._naming():
            return self._stream.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._naming():
            return self._stream.seek(offset, whence)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
            raise InvalidInputError(
                f"{self._path} is damaged: {error}, after {self._stream.tell():,} bytes of its "
                "content: replace it by a whole one"
            ) from error

    def close(self) -> None:
        super().close()
        self._stream.close()
        self._below.close()


class Cursor:
    """A stream that is read forwards: it opens again only to go back.

    Compressed files have no way to jump, so units of one file are read one after the other.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._position = 0

    def read(self, start: int, size: int) -> bytes:
        """Return *size* bytes from *start*, both counted in decompressed bytes.

        Raises:
            InvalidInputError: The file has not as many.
        """
        if self._stream is None or self._position > start:
            self.close()
            self._stream, self._position = open_stream(self._path), 0
        self._skip(self._stream, start - self._position)
        data = self._stream.read(size)
        self._position = start + len(data)
        if len(data) < size:
            raise InvalidInputError(f"{self._path} ends early: it has changed")
        return data

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _skip(self, stream: BinaryIO, size: int) -> None:
        if not split_compression(self._path)[1]:
            stream.seek(size, io.SEEK_CUR)
            return
        while size > 0:
            piece = stream.read(min(size, 1 << 20))
            if not piece:
                return
            size -= len(piece)
