"""Repositories and files of a hub, as values; and the question whether to stop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

NOT_FOUND: Final = "pull model manifest: file does not exist"  # Ollama's words

# Called again and again during a long operation: True ends it, because no caller waits for it.
Stop: TypeAlias = Callable[[], bool]


def never() -> bool:
    """Never stop: run to the end."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository; *size* in bytes, None if the hub does not give it."""

    path: str
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository as it is at one commit.

    Args:
        name: ``owner/name``.
        commit: The commit that its branch or tag points to; all files are read at it.
        license: As its model card gives it; empty if it does not.
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
    """A large file, for which the hub gives a digest.

    Args:
        digest: ``sha256:<hex>``.
    """

    repository: str
    commit: str
    path: str
    size: int
    digest: str
