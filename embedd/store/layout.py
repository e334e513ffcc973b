"""Where things lie in a store: Ollama's layout, plus a marker and a lock file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from embedd.errors import InvalidInputError, StoreError
from embedd.names import ModelName
from embedd.store.disk import Disk, translated, write_whole

FORMAT: Final = 1
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """Content of ``embedd-store.json``: embedd made this store and may tidy it up."""

    format: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Paths of the store at *root*. Looking at them writes nothing."""

    root: Path

    @property
    def blobs(self) -> Path:
        """Folder of the content-addressed files."""
        return self.root / "blobs"

    @property
    def manifests(self) -> Path:
        """Folder of the manifests: ``<host>/<namespace>/<model>/<tag>``."""
        return self.root / "manifests"

    @property
    def marker(self) -> Path:
        """The file that says that embedd made the store."""
        return self.root / "embedd-store.json"

    @property
    def lock(self) -> Path:
        """The file that processes lock while they change the store."""
        return self.root / "embedd.lock"

    def blob(self, digest: str) -> Path:
        """Path of the blob *digest*.

        Raises:
            InvalidInputError: *digest* is no digest.
        """
        return self.blobs / parse_digest(digest).replace(":", "-")

    def manifest(self, name: ModelName) -> Path:
        """Path of the manifest of *name* in exactly its letter case."""
        return self.manifests.joinpath(*name.path)

    def is_own(self) -> bool:
        """Whether embedd made this store.

        Raises:
            StoreError: The marker cannot be read, or is of a newer embedd.
        """
        with translated(f"cannot read {self.marker}"):
            if not self.marker.exists():
                return False
            data = self.marker.read_bytes()
        try:
            marker = msgspec.json.decode(data, type=Marker)
        except msgspec.DecodeError as error:
            raise StoreError(f"{self.marker} cannot be read: {error}") from error
        if marker.format > FORMAT:
            raise StoreError(
                f"{self.marker} has format {marker.format}, this embedd knows up to {FORMAT}: "
                "the store was made by a newer embedd"
            )
        return True

    def prepare(self, disk: Disk) -> None:
        """Make the folders. The marker is set only where there was no store before.

        Raises:
            StoreError: The folders cannot be made, or are of a newer embedd.
        """
        with translated(f"cannot make the model store {self.root}"):
            self.root.mkdir(parents=True, exist_ok=True)
        # The marker comes first: after a crash in between, the store is still known as ours.
        if not (self.is_own() or self.blobs.exists() or self.manifests.exists()):
            content = msgspec.json.encode(Marker(format=FORMAT))
            write_whole(disk, self.marker, content, through=self.root)
        with translated(f"cannot make the model store {self.root}"):
            self.blobs.mkdir(exist_ok=True)
            self.manifests.mkdir(exist_ok=True)


def parse_digest(text: str) -> str:
    """``sha256:<64 lower-case hex digits>``; accepts ``-`` for ``:`` and capitals.

    Raises:
        InvalidInputError: *text* is no digest.
    """
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise InvalidInputError("invalid digest format")
    return f"sha256:{match[1].lower()}"
