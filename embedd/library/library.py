"""Door two: list, pull, create and delete the models of the store. All calls block."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from embedd.catalog.catalog import Catalog
from embedd.errors import EmbeddError, ModelNotFoundError, StoreError
from embedd.library.creating import Creator
from embedd.library.progress import ReportProgress, ignore
from embedd.library.pulling import Puller
from embedd.library.storing import Verify, read_config
from embedd.names import parse_model_name
from embedd.resolve import ModelDetails, Resolver, details_of_config
from embedd.store.manifests import StoredManifest
from embedd.store.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A row of the list of models.

    Args:
        name: Shortest display name, with its tag.
        digest: sha256 of the manifest, 64 hex digits without prefix.
        size: Bytes of all layers and the config.
        modified_at: Seconds since the epoch.
        capabilities: Empty if the model's metadata cannot be read.
    """

    name: str
    digest: str
    size: int
    modified_at: float
    details: ModelDetails
    capabilities: tuple[str, ...]


Entries: TypeAlias = list[ModelEntry]


class Library:
    """The models of one store.

    Args:
        verify: Loads a converted GGUF and encodes with it; raises if that fails. Called
            before the file gets its name.
    """

    def __init__(
        self, store: Store, resolver: Resolver, catalog: Catalog, *, verify: Verify | None = None
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._puller = Puller(store, catalog, verify)
        self._creator = Creator(store, verify)

    def pull(self, text: str, report: ReportProgress = ignore) -> bool:
        """Fetch the model *text* from where the catalogue says; False if nothing changed.

        Raises:
            InvalidModelNameError: *text* is no name.
            PullError: No source is known, it is not installed, or it is not what it was.
            ConversionError: The source cannot be converted.
            StoreError: The store cannot be written.
        """
        return self._puller.pull(text, report)

    def create(
        self,
        text: str,
        source: Path,
        *,
        quantize: str | None = None,
        report: ReportProgress = ignore,
    ) -> bool:
        """Store *source*, a checkpoint folder or a GGUF file, as *text*; False if unchanged.

        Args:
            quantize: What the weights of a checkpoint become; None is f16.

        Raises:
            InvalidModelNameError: *text* is no name.
            InvalidInputError: *source* does not exist, or *quantize* is unknown.
            UnsupportedError: *quantize* was given for a GGUF.
            ConversionError, ModelLoadError: *source* is damaged or not understood.
            StoreError: The store cannot be written.
        """
        return self._creator.create(text, source, quantize=quantize, report=report)

    def delete(self, text: str) -> None:
        """Remove the model *text*, and the blobs that no other model needs.

        Raises:
            InvalidModelNameError: *text* is no name.
            ModelNotFoundError: There is no such model; with the name as sent.
            StoreError: It cannot be removed.
        """
        if not self._store.delete(parse_model_name(text)):
            raise ModelNotFoundError(text)

    def list(self) -> Entries:
        """All models whose manifest can be read, newest first.

        Raises:
            StoreError: The store cannot be read at all.
        """
        entries = [self._entry(stored) for stored in self._stored()]
        return sorted(entries, key=lambda entry: (-entry.modified_at, entry.name))

    def _stored(self) -> Iterator[StoredManifest]:
        for name in self._store.manifests.names():
            try:
                stored = self._store.manifests.read(name)
            except StoreError as error:
                _log.warning("model left out", extra={"model": str(name), "cause": str(error)})
                continue
            if stored is not None:
                yield stored

    def _entry(self, stored: StoredManifest) -> ModelEntry:
        capabilities: tuple[str, ...] = ()
        try:
            model = self._resolver.describe(stored)
            details, capabilities = model.details, model.capabilities
        except EmbeddError as error:
            extra = {"model": stored.name.display, "cause": str(error)}
            _log.warning("model cannot be read", extra=extra)
            details = details_of_config(read_config(self._store, stored.manifest))
        return ModelEntry(
            name=stored.name.display,
            digest=stored.digest,
            size=stored.manifest.size,
            modified_at=stored.modified_at,
            details=details,
            capabilities=capabilities,
        )
