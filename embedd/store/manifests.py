"""Manifests, from name to layers: in Ollama's format, found in any letter case."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from embedd.errors import InvalidInputError, InvalidModelNameError, StoreError
from embedd.gguf.reader import open_regular
from embedd.names import ModelName
from embedd.store.blobs import Blob, hash_bytes
from embedd.store.disk import Disk, translated, write_whole
from embedd.store.layout import Layout, parse_digest

MANIFEST_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE: Final = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE: Final = "application/vnd.ollama.image."
MODEL: Final = f"{LAYER_TYPE}model"
PARAMS: Final = f"{LAYER_TYPE}params"
LICENSE: Final = f"{LAYER_TYPE}license"


class Layer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A blob of a model and its media type; types that embedd does not use are kept."""

    media_type: str = ""
    digest: str
    size: Annotated[int, Meta(ge=0)]
    name: str = ""
    source: str = msgspec.field(default="", name="from")


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The layers of a model, and its config blob."""

    schema_version: int = 2
    media_type: str = MANIFEST_TYPE
    config: Layer
    layers: list[Layer]

    @property
    def size(self) -> int:
        """Bytes of all layers and the config."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> set[str]:
        """Digests of all blobs that the model needs."""
        return {self.config.digest, *(layer.digest for layer in self.layers)}

    def of_type(self, media_type: str) -> list[Layer]:
        """The layers of one kind."""
        return [layer for layer in self.layers if layer.media_type == media_type]


class ConfigBlob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Content of the config blob, in Ollama's format.

    Args:
        model_type: Number of parameters, such as ``22.57M``.
        file_type: Quantisation, such as ``F16``.
        made_from: Source that embedd pulled the model from; Ollama ignores it.
    """

    model_format: str = ""
    model_family: str = ""
    model_families: list[str] | None = None
    model_type: str = ""
    file_type: str = ""
    architecture: str = ""
    os: str = ""
    rootfs: dict[str, object] | None = None
    made_from: str = msgspec.field(default="", name="embedd_made_from")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredManifest:
    """A manifest on disk.

    Args:
        digest: sha256 of the file's bytes, 64 hex digits without prefix.
        modified_at: Seconds since the epoch.
    """

    name: ModelName
    path: Path
    manifest: Manifest
    digest: str
    modified_at: float


class ManifestStore:
    """The manifests of one store. All calls block; none takes the store's lock."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout = layout
        self._disk = disk

    def find(self, name: ModelName) -> ModelName | None:
        """The stored name that equals *name* without letter case; None if there is none."""
        parts = self._existing_parts(name.path)
        if len(parts) < len(name.path) or not self._layout.manifests.joinpath(*parts).is_file():
            return None
        return _name_of(parts)

    def canonical(self, name: ModelName) -> ModelName:
        """*name* in the letter case of the folders that exist, as far as they exist."""
        parts = self._existing_parts(name.path)
        return _name_of((*parts, *name.path[len(parts) :])) or name

    def read(self, name: ModelName) -> StoredManifest | None:
        """The manifest of *name* in any letter case; None if there is none.

        Raises:
            StoreError: The file cannot be read or is not a manifest; names the file.
        """
        found = self.find(name)
        if found is None:
            return None
        path = self._layout.manifest(found)
        with translated(f"cannot read manifest {path}"):
            try:
                with open_regular(path) as file:
                    data, modified_at = file.read(), path.stat().st_mtime
            except FileNotFoundError:  # deleted since it was found
                return None
        return StoredManifest(
            name=found,
            path=path,
            manifest=_parse_manifest(data, path),
            digest=hash_bytes(data).removeprefix("sha256:"),
            modified_at=modified_at,
        )

    def write(self, name: ModelName, manifest: Manifest) -> ModelName:
        """Write the manifest atomically; return the canonical name, which it is written to.

        Raises:
            StoreError: Writing failed; an older manifest is unchanged.
        """
        canonical = self.canonical(name)
        path = self._layout.manifest(canonical)
        with translated(f"cannot write manifest {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        data = msgspec.json.encode(manifest)
        write_whole(self._disk, path, data, through=self._layout.blobs)
        return canonical

    def delete(self, name: ModelName) -> None:
        """Remove the manifest of *name* in exactly this letter case, and empty folders.

        Raises:
            StoreError: It cannot be removed.
        """
        path = self._layout.manifest(name)
        with translated(f"cannot remove manifest {path}"):
            self._disk.remove(path)
            self._disk.sync(path.parent)
        # A folder that is not empty stays: rmdir refuses.
        with suppress(OSError):
            for folder in path.parents[: len(name.path) - 1]:
                folder.rmdir()

    def names(self) -> Iterator[ModelName]:
        """Names of all manifests, readable or not, in path order."""
        with translated(f"cannot list {self._layout.manifests}"):
            paths = sorted(self._layout.manifests.glob("*/*/*/*"))
        for path in paths:
            name = _name_of(path.relative_to(self._layout.manifests).parts)
            if name is not None and path.is_file():
                yield name

    def used_digests(self) -> set[str]:
        """Digests of all blobs that are named by a manifest.

        Raises:
            StoreError: A manifest cannot be read, so its blobs are unknown.
        """
        used: set[str] = set()
        for name in self.names():
            stored = self.read(name)
            used |= stored.manifest.digests if stored else set()
        return used

    def _existing_parts(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """The longest existing path that equals a beginning of *parts* but for letter case.

        A path in exactly the given case is preferred.
        """
        return max(_matching_paths(self._layout.manifests, parts), key=len)


def make_layer(media_type: str, blob: Blob, name: str = "") -> Layer:
    """The layer of *blob*; *name* is the component of an image model that it is."""
    return Layer(media_type=media_type, digest=blob.digest, size=blob.size, name=name)


def _matching_paths(folder: Path, parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Existing paths below *folder* that equal a beginning of *parts* but for letter case."""
    yield ()
    if not parts:
        return
    with translated(f"cannot list {folder}"):
        entries = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    alike = [entry for entry in entries if entry.lower() == parts[0].lower()]
    for entry in sorted(alike, key=lambda entry: (entry != parts[0], entry)):
        for rest in _matching_paths(folder / entry, parts[1:]):
            yield (entry, *rest)


def _name_of(parts: tuple[str, ...]) -> ModelName | None:
    try:
        host, namespace, model, tag = parts
        return ModelName(host=host, namespace=namespace, model=model, tag=tag)
    except InvalidModelNameError:
        return None


def _parse_manifest(data: bytes, path: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
        for digest in manifest.digests:
            parse_digest(digest)
    except (msgspec.DecodeError, InvalidInputError) as error:
        message = f"manifest {path} cannot be read: {error}; delete it or pull the model again"
        raise StoreError(message) from error
    return manifest
