"""The inputs of a job: files of several formats, found by names, globs and folders."""

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from embedd.bulk.stores import SCHEMES, is_remote, list_files, read_modified, without_query
from embedd.bulk.streams import open_file, split_compression
from embedd.errors import InvalidInputError

SAMPLE: Final = 1 << 20  # bytes at either end of a file that its digest covers
STDIN: Final = "-"


class Format(StrEnum):
    """What an input file is."""

    TXT = "txt"
    MD = "md"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"
    ARROW = "arrow"


ENDINGS: Final = {
    ".txt": Format.TXT,
    ".md": Format.MD,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".parquet": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".feather": Format.ARROW,
}
LINE_FORMATS: Final = (Format.TXT, Format.JSONL, Format.CSV, Format.TSV)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """What identifies the content of a file without reading all of it.

    Args:
        path: Absolute.
        modified: Its time in nanoseconds.
        digest: sha256 of its first and its last MiB.
    """

    path: str
    size: int
    modified: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Rows of one kind: one file, or several documents, each of which is a row.

    Args:
        delimiter: Of the fields of a table as text; None: that of its format.
    """

    format: Format
    files: tuple[File, ...]
    delimiter: str | None = None

    @property
    def path(self) -> str:
        """The path of its only file."""
        return self.files[0].path

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.files)


def find_paths(names: Sequence[str], form: Format | None = None) -> list[tuple[str, Format]]:
    """Return the files that *names* mean: paths, globs, and folders with all that is in them.

    They are in the order of *names*, within a glob or a folder sorted by name, and each is there
    once. Hidden files, and names that begin with an underscore, are passed over in folders.

    Args:
        form: The format of files whose ending names none.

    Raises:
        InvalidInputError: A name means no file, or one of unknown format.
    """
    found: dict[str, Format] = {}
    for name in names:
        if is_remote(name):
            found |= dict(_find_remote(name, form))
            continue
        if "://" in name:
            raise InvalidInputError(
                f"{name} is not a path, nor a URI that begins with {', '.join(SCHEMES)}"
            )
        if not name:
            raise InvalidInputError("the name of an input is empty: is a variable not set?")
        matches = [name] if Path(name).exists() else _expand(name)
        before = len(found)
        for path in matches:
            check_not_pipe(path, f"pipe it into the command and give {STDIN} as the input, or ")
            known = Path(path).resolve()
            if known.is_dir():
                found |= dict(_list_folder(known))
            elif known.is_file():
                found[str(known)] = _choose_format(known, form)
        if not matches or (
            len(found) == before and not any(Path(one).is_file() for one in matches)
        ):
            raise InvalidInputError(f"no input: {name} is not a file, or a folder or glob of them")
    for path in found:
        check_name(path)
    return list(found.items())


def _expand(pattern: str) -> list[str]:
    """Return what matches a glob, sorted, without links that lead nowhere."""
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - `Path.glob` takes no absolute pattern
    return [name for name in names if Path(name).exists()]


def check_name(path: str) -> None:
    """Check that *path* can be written into the record of a job.

    Raises:
        InvalidInputError: It is not UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"the name {path!a} is not UTF-8: rename it") from None


def check_not_pipe(path: str | Path, way_out: str = "") -> None:
    """Check that *path* is not a pipe, such as that of the shell's ``<(…)``.

    Raises:
        InvalidInputError: It is one; the message ends with *way_out* and that a file can be read.
    """
    if Path(path).is_fifo():
        raise InvalidInputError(
            f"{path} is a pipe, which can be read only once: {way_out}write it to a file first"
        )


def _find_remote(name: str, form: Format | None) -> Iterator[tuple[str, Format]]:
    is_there = False
    for uri, is_named in list_files(name):
        path = Path(without_query(uri))
        if is_named:
            yield uri, _choose_format(path, form)
        elif (known := ENDINGS.get(_ending(path))) is not None:
            yield uri, known
        else:
            continue
        is_there = True
    if not is_there:
        raise InvalidInputError(f"no input: {name} is not a file, or a folder or glob of them")


def make_sources(paths: Iterable[tuple[str, Format]]) -> list[Source]:
    """Return the sources of files: one for each, and one for documents that follow each other."""
    sources: list[Source] = []
    for path, form in paths:
        file = read_file_facts(path)
        if form is Format.MD and sources and sources[-1].format is Format.MD:
            sources[-1] = Source(format=form, files=(*sources[-1].files, file))
        else:
            sources.append(Source(format=form, files=(file,)))
    return sources


def has_arrow() -> bool:
    """Return whether the library for Parquet and Arrow is installed."""
    return find_spec("pyarrow") is not None


def read_file_facts(path: str) -> File:
    """Return what identifies the content of the file *path*."""
    with open_file(path) as file:
        head = file.read(SAMPLE)
        size = file.seek(0, 2)
        file.seek(max(len(head), size - SAMPLE))
        digest = hashlib.sha256(head + file.read())
    modified = read_modified(path) if is_remote(path) else Path(path).stat().st_mtime_ns
    return File(path=path, size=size, modified=modified, digest=digest.hexdigest())


def _list_folder(folder: Path) -> Iterator[tuple[str, Format]]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith((".", "_")) for part in parts):
            continue
        form = ENDINGS.get(_ending(path))
        if form is not None:
            yield str(path), form


def _choose_format(path: Path, form: Format | None) -> Format:
    known = ENDINGS.get(_ending(path), form)
    if known is None:
        endings = ", ".join(ending.removeprefix(".") for ending in ENDINGS)
        raise InvalidInputError(
            f"the format of {path} is unknown: its ending is none of {endings} (and .gz or .zst "
            "behind it): name it with --format"
        )
    return known


def _ending(path: Path) -> str:
    return Path(split_compression(path.name)[0]).suffix.lower()
