"""Object stores and HDFS, through pyarrow's file systems: inputs are found and read.

Keys and regions come from where each store's own tools read them, such as ``AWS_ACCESS_KEY_ID``.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

from embedd.errors import ExtraMissingError, InvalidInputError

SCHEMES: Final = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
BLOCK: Final = 4 << 20  # bytes of a request to the store


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file system, and a path there.

    Args:
        system: pyarrow's.
        root: The start of *path* that *before* stands for.
        before, after: What the URI has before and behind the rest.
    """

    system: Any
    path: str
    root: str = ""
    before: str
    after: str

    def to_uri(self, path: str) -> str:
        """Return the URI of another *path* of the same file system."""
        return f"{self.before}{path.removeprefix(self.root)}{self.after}"


def is_remote(name: str) -> bool:
    """Whether *name* is the URI of a file system that is read through pyarrow."""
    return name.partition("://")[0] in SCHEMES and "://" in name


def open_remote(uri: str) -> BinaryIO:
    """Return the bytes of the file *uri*.

    Raises:
        InvalidInputError: It cannot be read.
    """
    return cast("BinaryIO", io.BufferedReader(open_native(uri), BLOCK))


def open_native(uri: str) -> Any:
    """Return the file *uri* as pyarrow reads it: any of its bytes at any time.

    Raises:
        InvalidInputError: It cannot be read.
    """
    place = open_place(uri)
    try:
        return place.system.open_input_file(place.path)
    except OSError as error:
        raise InvalidInputError(f"{uri} cannot be read: {error}") from error


def read_modified(uri: str) -> int:
    """Return when the file *uri* was last changed, in nanoseconds.

    Raises:
        InvalidInputError: The store does not answer.
    """
    place = open_place(uri)
    [info] = _ask(uri, place.system, [place.path])
    return int(info.mtime_ns or 0)


def without_query(uri: str) -> str:
    """Return *uri* without the options of its store."""
    return uri.partition("?")[0]


def list_files(uri: str) -> Iterator[tuple[str, bool]]:
    """Yield the files that *uri* means, sorted, and for each whether it was named itself.

    A file is named itself; of a folder there is all that is in it, but for what is hidden or begins
    with an underscore. ``*`` is any part of a name, ``**`` any folders.

    Raises:
        InvalidInputError: The store does not answer.
    """
    place = open_place(uri)
    from pyarrow import fs  # noqa: PLC0415 - needs an extra

    path = place.path.rstrip("/")
    is_glob = "*" in path
    base = path[: path.index("*")].rpartition("/")[0] if is_glob else path
    if not is_glob:
        [info] = _ask(uri, place.system, [path])
        if info.is_file:
            yield uri, True
            return
    found = _ask(uri, place.system, fs.FileSelector(base, allow_not_found=True, recursive=True))
    matches = _translate(path).fullmatch if is_glob else None
    for info in sorted(found, key=lambda one: one.path):
        if not info.is_file:
            continue
        if matches is not None:
            if matches(info.path):
                yield place.to_uri(info.path), True
        elif not re.search(r"(^|/)[._]", info.path.removeprefix(base)):
            yield place.to_uri(info.path), False


def _ask(uri: str, system: Any, what: Any) -> list[Any]:
    try:
        return list(system.get_file_info(what))
    except OSError as error:
        raise InvalidInputError(f"{uri} cannot be listed: {error}") from error


def _translate(pattern: str) -> "re.Pattern[str]":
    parts = re.split(r"(\*\*/|\*)", pattern)
    meanings = {"**/": "(?:.*/)?", "*": "[^/]*"}
    return re.compile("".join(meanings.get(part) or re.escape(part) for part in parts))


def open_place(uri: str) -> Place:
    """Return the file system of *uri*, and the path there.

    Raises:
        InvalidInputError: It cannot be opened.
    """
    parts = urlsplit(uri)
    user = parts.netloc.rpartition("@")[0]
    if user and (parts.scheme in {"s3", "gs", "gcs"} or ":" in user):
        raise InvalidInputError(
            "a URI must not have keys, because the job's record has it: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or what your store's tools read"
        )
    rest, _, query = uri.partition("://")[2].partition("?")
    after = f"?{query}" if query else ""
    if parts.scheme == "hdfs":
        before, path = f"hdfs://{parts.netloc}", "/" + rest.partition("/")[2]
        return Place(system=_open(f"{before}/{after}"), path=path, before=before, after=after)
    bucket, slash, key = rest.partition("/")
    before = f"{parts.scheme}://{bucket}"
    root = user or bucket  # abfs://container@account.dfs.core.windows.net
    system = _open(f"{before}{after}")
    return Place(system=system, path=root + slash + key, root=root, before=before, after=after)


@cache
def _open(uri: str) -> Any:
    """The file system of a store or a bucket, opened once."""
    try:
        from pyarrow import fs  # noqa: PLC0415 - needs an extra
    except ImportError:
        raise ExtraMissingError(without_query(uri), "bulk") from None
    try:
        return fs.FileSystem.from_uri(uri)[0]
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise InvalidInputError(f"{without_query(uri)} cannot be opened: {error}") from error
