"""Uploaded files of a new model: their checks, and a folder of them for the converter."""

import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from embedd.errors import InvalidInputError
from embedd.store.blobs import Blob
from embedd.store.layout import parse_digest
from embedd.store.store import Store

MAGIC: Final = b"GGUF"
LONGEST_PART: Final = 255  # bytes, the limit of most file systems
LONGEST_NAME: Final = 1024


class UploadClaims:
    """Counts the requests to create a model that will use an uploaded file.

    A client that uploads a file, or learns that there is one, will name it in a request to
    create a model. Until the last of these the file must stay. Safe to call from all threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, digest: str) -> None:
        """Count a client that will use the file *digest*, of which there is one."""
        with self._lock:
            self._counts[digest] += 1

    def release(self, digests: Iterable[str]) -> set[str]:
        """End one use of each of *digests*; return those that have no other."""
        free = set()
        with self._lock:
            for digest in set(digests):
                self._counts[digest] -= 1
                if self._counts[digest] <= 0:
                    del self._counts[digest]
                    free.add(digest)
        return free


def parse_uploads(files: Mapping[str, str], store: Store) -> dict[str, Path]:
    """Names of *files* → paths of the blobs with their digests.

    Raises:
        InvalidInputError: A name is not relative, or a digest is invalid or not stored.
    """
    paths: dict[str, Path] = {}
    for name, text in files.items():
        _check_name(name)
        digest = parse_digest(text)
        if not store.blobs.has(digest):
            raise InvalidInputError(f'blob "{digest}" not found')
        paths[name] = store.blobs.path(digest)
    return paths


def choose_ggufs(paths: Mapping[str, Path]) -> list[Path]:
    """The GGUFs among the files; empty if they are a checkpoint.

    Raises:
        InvalidInputError: They are neither.
    """
    if any(name.lower().endswith(".safetensors") for name in paths):
        return []
    chosen = []
    # The parts of a split GGUF are numbered in their names.
    for name, path in sorted(paths.items()):
        if is_gguf(path):
            chosen.append(path)
        elif name.lower().endswith(".gguf"):
            raise InvalidInputError("supplied file was not in GGUF format")
    if not chosen:
        raise InvalidInputError("unknown type")
    return chosen


@contextmanager
def open_folder(paths: Mapping[str, Path]) -> Iterator[Path]:
    """A temporary folder with links to the files under their names.

    Raises:
        InvalidInputError: A name is both a file and a folder.
    """
    with tempfile.TemporaryDirectory(prefix="embedd-") as root:
        for name, path in paths.items():
            link = Path(root) / name
            try:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.absolute())
            except OSError as error:
                raise InvalidInputError(f'file "{name}" has no place: {error.strerror}') from error
        yield Path(root)


def blob_at(path: Path) -> Blob:
    """The stored blob at *path*."""
    return Blob(digest=parse_digest(path.name), size=path.stat().st_size)


def _check_name(name: str) -> None:
    parts = name.split("/")
    is_relative = (
        not {"", ".", ".."}.intersection(parts)
        and name.isprintable()
        and "\\" not in name
        and len(name.encode()) <= LONGEST_NAME
        and all(len(part.encode()) <= LONGEST_PART for part in parts)
    )
    if not is_relative:
        raise InvalidInputError("file path must be relative")


def is_gguf(path: Path) -> bool:
    """Whether the file begins as a GGUF does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC
