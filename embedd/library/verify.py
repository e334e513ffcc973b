"""Verifies a store: hashes its blobs again and compares the digests with their names."""

from collections.abc import Iterable
from dataclasses import dataclass

from embedd.errors import EmbeddError, StoreError
from embedd.library.progress import ReportProgress, report_bytes
from embedd.names import ModelName
from embedd.store.blobs import hash_file
from embedd.store.layout import parse_digest
from embedd.store.manifests import StoredManifest
from embedd.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The result of verifying.

    Args:
        size: Bytes of the blobs that were hashed.
        problems: One sentence each.
        unused: Digests of blobs that no model names.
    """

    models: int
    blobs: int
    size: int
    problems: tuple[str, ...]
    unused: tuple[str, ...]


class Verifier:
    """Hashes every blob of some models once."""

    def __init__(self, store: Store, report: ReportProgress) -> None:
        self._store = store
        self._report = report
        self._sizes: dict[str, int] = {}
        self._problems: list[str] = []
        self._models = 0

    def verify_models(self, names: Iterable[ModelName]) -> None:
        """Check the manifests of *names* and the blobs that they name."""
        for name in names:
            try:
                stored = self._store.manifests.read(name)
            except StoreError as error:
                self._problems.append(str(error))
                continue
            if stored is not None:
                self._models += 1
                self._verify_blobs(stored)

    def verify_others(self) -> tuple[str, ...]:
        """Check the blobs that no model names; returns their digests."""
        others = sorted(set(self._store.blobs.digests()) - set(self._sizes))
        for digest in others:
            self._verify_blob(digest)
        return tuple(others)

    def result(self, unused: tuple[str, ...] = ()) -> Verified:
        """The result so far."""
        return Verified(
            models=self._models,
            blobs=len(self._sizes),
            size=sum(self._sizes.values()),
            problems=tuple(self._problems),
            unused=unused,
        )

    def _verify_blobs(self, stored: StoredManifest) -> None:
        manifest = stored.manifest
        for layer in (*manifest.layers, manifest.config):
            digest = parse_digest(layer.digest)
            if digest not in self._sizes:
                self._verify_blob(digest, of=f' of "{stored.name.display}"')
            # A blob that could not be read counts as 0 bytes, and is reported already.
            if self._sizes[digest] not in {0, layer.size}:
                self._problems.append(
                    f"blob {digest} has {self._sizes[digest]} bytes, "
                    f'"{stored.name.display}" says {layer.size}'
                )

    def _verify_blob(self, digest: str, of: str = "") -> None:
        path = self._store.blobs.path(digest)
        self._sizes[digest] = 0
        if not path.exists():
            self._problems.append(f"blob {digest}{of} is missing: pull or create the model again")
            return
        try:
            self._sizes[digest] = path.stat().st_size
            got = hash_file(path, report_bytes(self._report, f"verifying {digest[7:19]}", digest))
        except (EmbeddError, OSError) as error:
            self._problems.append(str(error))
            return
        if got != digest:
            self._problems.append(
                f"blob {digest}{of} is corrupt, its bytes have the digest {got}: "
                "remove the model, and pull or create it again"
            )
