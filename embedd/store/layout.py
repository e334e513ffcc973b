"""Paths in a store: Ollama's layout, plus a marker and a lock file."""

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
    """Content of ``embedd-store.json``: embedd created this store and may prune it."""

    format: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Paths of the store at *root*. Only `prepare` writes."""

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
        """The file that marks a store that embedd created."""
        return self.root / "embedd-store.json"

    @property
    def lock(self) -> Path:
        """The file that processes lock while they change the store."""
        return self.root / "embedd.lock"

    def blob(self, digest: str) -> Path:
        """Path of the blob *digest*.

        Raises:
            InvalidInputError: *digest* is not a digest.
        """
        return self.blobs / parse_digest(digest).replace(":", "-")

    def manifest(self, name: ModelName) -> Path:
        """Path of the manifest of *name*, in exactly this letter case."""
        return self.manifests.joinpath(*name.path)

    def is_own(self) -> bool:
        """Whether embedd created this store.

        Raises:
            StoreError: The marker cannot be read, or was written by a newer embedd.
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
        """Create the folders, and the marker if there was no store before.

        Raises:
            StoreError: The folders cannot be created, or belong to a newer embedd.
        """
        with translated(f"cannot make the model store {self.root}"):
            self.root.mkdir(parents=True, exist_ok=True)
        # The marker comes first, so that a crash in between leaves a store marked as ours.
        if not (self.is_own() or self.blobs.exists() or self.manifests.exists()):
            content = msgspec.json.encode(Marker(format=FORMAT))
            write_whole(disk, self.marker, content, through=self.root)
        with translated(f"cannot make the model store {self.root}"):
            self.blobs.mkdir(exist_ok=True)
            self.manifests.mkdir(exist_ok=True)


def parse_digest(text: str) -> str:
    """``sha256:<64 lower-case hex digits>``; accepts ``-`` for ``:`` and capitals.

    Raises:
        InvalidInputError: *text* is not a digest.
    """
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise InvalidInputError("invalid digest format")
    return f"sha256:{match[1].lower()}"
