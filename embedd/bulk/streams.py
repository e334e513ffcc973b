"""Input files as streams of bytes, decompressed on the way."""

import gzip
import io
import sys
from pathlib import Path
from typing import BinaryIO, Final, cast

from embedd.bulk.stores import is_remote, open_remote, without_query

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSIONS: Final = (".gz", ".zst")


def split_compression(name: str) -> tuple[str, str]:
    """Return *name* without the ending of a compression, and that ending, empty if it has none."""
    name = without_query(name) if is_remote(name) else name
    for ending in COMPRESSIONS:
        if name.lower().endswith(ending):
            return name[: -len(ending)], ending
    return name, ""


def open_stream(path: str) -> BinaryIO:
    """Return the bytes of the file *path*, decompressed as its ending says."""
    return decompress(open_file(path), split_compression(path)[1])


def open_file(path: str) -> BinaryIO:
    """Return the bytes of the file *path*, of this machine or of a store."""
    return open_remote(path) if is_remote(path) else Path(path).open("rb")


def decompress(raw: BinaryIO, ending: str) -> BinaryIO:
    """Return the content of *raw*, which closes with it."""
    if ending == ".gz":
        return cast("BinaryIO", _Closing(gzip.GzipFile(fileobj=raw), raw))
    if ending == ".zst":
        return cast("BinaryIO", _Closing(zstd.ZstdFile(raw), raw))
    return raw


class _Closing(io.BufferedReader):
    """A buffered decompressor that also closes the file below it."""

    def __init__(self, stream: io.BufferedIOBase, below: BinaryIO) -> None:
        super().__init__(cast("io.RawIOBase", stream), 1 << 20)
        self._below = below

    def close(self) -> None:
        super().close()
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
        """Return *size* bytes from *start*, both counted in decompressed bytes."""
        if self._stream is None or self._position > start:
            self.close()
            self._stream, self._position = open_stream(self._path), 0
        self._skip(self._stream, start - self._position)
        data = self._stream.read(size)
        self._position = start + len(data)
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
