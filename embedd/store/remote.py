"""A place to fetch models from: what it says of its files, and what it must be able to do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

# Asked again and again during a long call: whether nobody wants its result any more.
Stop: TypeAlias = Callable[[], bool]


def never() -> bool:
    """Go on to the end."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository; *size* in bytes, None if the source does not say."""

    path: str
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository as it is at one commit.

    Args:
        name: ``owner/name``.
        commit: What its branch or tag stands for now; everything is read at this commit.
        license: What its card says; empty if nothing.
    """

    name: str
    commit: str
    files: tuple[RemoteFile, ...]
    license: str = ""

    def has(self, path: str) -> bool:
        """Whether there is a file *path*."""
        return any(file.path == path for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBlob:
    """A large file whose bytes the source vouches for.

    Args:
        digest: ``sha256:<hex>``.
    """

    repository: str
    commit: str
    path: str
    size: int
    digest: str


class Sink(Protocol):
    """Where bytes go: what of a file the download primitive uses."""

    def write(self, data: bytes, /) -> int:
        """Append *data*."""

    def tell(self) -> int:
        """Bytes that are there."""

    def seek(self, position: int, /) -> int:
        """Go back, before `truncate`."""

    def truncate(self) -> int:
        """Forget what comes after the position."""


class Source(Protocol):
    """Speaks with a source of models. All calls block and raise `PullError`."""

    def look_up(self, repository: str, revision: str | None = None) -> Repository:
        """The repository at *revision*; None is its main branch."""

    def locate(self, repository: Repository, path: str) -> RemoteBlob:
        """Size and digest of the file *path*."""

    def read(self, repository: Repository, path: str, limit: int) -> bytes:
        """The first *limit* bytes of a small file."""

    def read_range(self, blob: RemoteBlob, start: int, size: int) -> bytes:
        """Up to *size* bytes from *start* on."""

    def stream(self, blob: RemoteBlob, sink: Sink) -> None:
        """Append to *sink* what it does not have yet."""
