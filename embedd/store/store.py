"""A store: its blobs and manifests, changed together under one lock."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedd.errors import StoreError
from embedd.names import ModelName
from embedd.store.blobs import BlobStore
from embedd.store.disk import Disk, open_lock
from embedd.store.layout import Layout, parse_digest
from embedd.store.manifests import Manifest, ManifestStore

_log = logging.getLogger(__name__)


class Store:
    """The models below *root*. Opening it and reading from it write nothing.

    Changes go through `open_for_change`, `commit` and `delete`, from several processes at
    the same time.

    Args:
        prune: Whether unused blobs are removed.
    """

    def __init__(self, root: Path, *, prune: bool = True, disk: Disk | None = None) -> None:
        self._disk = disk or Disk()
        self._prune = prune
        self.layout = Layout(root=root)
        self.blobs = BlobStore(self.layout, self._disk)
        self.manifests = ManifestStore(self.layout, self._disk)

    @property
    def prunes(self) -> bool:
        """Whether blobs may be removed that no request asked to delete.

        Raises:
            StoreError: The store was created by a newer embedd.
        """
        return self._prune and self.layout.is_own()

    def prepare(self) -> None:
        """Create the folders, so that `blobs` can be added.

        Raises:
            StoreError: They cannot be created.
        """
        self.layout.prepare(self._disk)

    @contextmanager
    def open_for_change(self) -> Iterator[None]:
        """Hold the store's lock: no other thread or process changes manifests meanwhile."""
        self.prepare()
        with open_lock(self.layout.lock):
            yield

    def commit(self, name: ModelName, manifest: Manifest) -> int:
        """Write the manifest of *name*, within `open_for_change`; its blobs must exist.

        Returns:
            Number of blobs of the previous version of *name* that were removed.

        Raises:
            StoreError: A blob is missing, or writing failed; *name* is unchanged.
        """
        for layer in (*manifest.layers, manifest.config):
            if not self.blobs.has(layer.digest, layer.size):
                raise StoreError(f"blob {layer.digest} of {name.display} is not in the store")
        older = self._digests_of(name)
        self.manifests.write(name, manifest)
        return self._remove_unused(older) if older and self.prunes else 0

    def discard(self, digests: set[str]) -> None:
        """Remove those of *digests* that no manifest names, within `open_for_change`."""
        if self._prune:
            self._remove_unused(digests)

    def delete(self, name: ModelName) -> bool:
        """Remove the model, and the blobs that no other model names.

        Returns:
            False if there is no such model.

        Raises:
            StoreError: It could not be removed.
        """
        if self.manifests.find(name) is None:
            return False
        with self.open_for_change():
            found = self.manifests.find(name)
            if found is None:  # deleted by another while we waited for the lock
                return False
            digests = self._digests_of(found)
            self.manifests.delete(found)
            if self._prune:
                self._remove_unused(digests)
        return True

    def prune(self, now: float | None = None) -> list[str]:
        """Remove old unused files: blobs that no manifest names, and unfinished files.

        Only in a store that embedd created, if pruning is enabled and every manifest can
        be read. Does not create a store.

        Returns:
            Names of the removed files.
        """
        if not self.prunes:
            return []
        with self.open_for_change():
            try:
                used = self.manifests.used_digests()
            except StoreError as error:
                _log.warning("store not pruned", extra={"cause": str(error)})
                return []
            return self.blobs.sweep({parse_digest(digest) for digest in used}, now)

    def _digests_of(self, name: ModelName) -> set[str]:
        """Digests in the manifest of *name*; empty if it does not exist or is broken."""
        try:
            stored = self.manifests.read(name)
        except StoreError as error:
            _log.warning("manifest is broken", extra={"model": name.display, "cause": str(error)})
            return set()
        return stored.manifest.digests if stored else set()

    def _remove_unused(self, digests: set[str]) -> int:
        """Remove those of *digests* that no manifest names; none if a manifest is broken."""
        try:
            used = {parse_digest(digest) for digest in self.manifests.used_digests()}
        except StoreError as error:
            _log.warning("blobs not removed", extra={"cause": str(error)})
            return 0
        unused = {parse_digest(digest) for digest in digests} - used
        for digest in unused:
            self.blobs.remove(digest)
        return len(unused)
