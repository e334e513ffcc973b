"""Door two: list, show, pull, create, copy and delete the models of the store. All calls block."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from embedd.catalog.catalog import Catalog
from embedd.catalog.recipe import Recipe
from embedd.errors import EmbeddError, ModelNotFoundError, StoreError
from embedd.library.create import Creator, Source, parse_creation
from embedd.library.progress import ReportProgress, ignore
from embedd.library.pull import Puller, Refreshed
from embedd.library.pull_hub import OpenHub, no_hub
from embedd.library.quantize import Quantize, Weights
from embedd.library.show import ModelMetadata, ModelTexts, read_metadata, read_texts
from embedd.library.storage import Verify, read_config
from embedd.library.verify import Verified, Verifier
from embedd.names import parse_model_name
from embedd.resolve import ModelDetails, Resolver, details_of_config
from embedd.store.blobs import Incoming
from embedd.store.manifests import StoredManifest
from embedd.store.remote import Stop, never
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """All that is known of a model."""

    entry: ModelEntry
    texts: ModelTexts
    metadata: ModelMetadata


class Library:
    """The models of one store.

    Args:
        verify: Loads a converted GGUF and encodes with it; raises if that fails. Called
            before the file gets its name.
        open_hub: Makes a client of the hub, when one is needed first.
        quantize: Writes a GGUF with other weights.
    """

    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        catalog: Catalog,
        *,
        verify: Verify | None = None,
        open_hub: OpenHub = no_hub,
        quantize: Quantize | None = None,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._catalog = catalog
        self._puller = Puller(store, catalog, verify, open_hub)
        weights = Weights(verify=verify, quantize=quantize)
        self._creator = Creator(store, resolver, weights, self.pull)

    def pull(
        self,
        text: str,
        report: ReportProgress = ignore,
        *,
        stop: Stop = never,
        insecure: bool = False,
    ) -> bool:
        """Fetch the model *text*; False if nothing changed.

        From where the catalogue says, or the repository that a name with ``hf.co`` says.
        What is broken off goes on next time; two pulls of one file share its transfer.

        Args:
            stop: Asked often; True ends the pull, and the transfer if nobody else waits.
            insecure: Whether the name may ask for http.

        Raises:
            InvalidModelNameError: *text* is no name.
            PullError: No source is known, it refuses, cannot be reached, is not installed,
                or has not the bytes that it promised; or *stop* asked for it.
            ModelLoadError, UnsupportedError: The file could not be embedded with.
            ConversionError: The source cannot be converted.
            StoreError: The store cannot be written.
        """
        return self._puller.pull(text, report, stop=stop, insecure=insecure)

    def refresh(
        self, report: ReportProgress = ignore, *, stop: Stop = never
    ) -> Sequence[Refreshed]:
        """Pull again every model that was pulled; one that fails does not hold up the others.

        Raises:
            PullError: *stop* asked for it.
            StoreError: The store cannot be read at all.
        """
        return self._puller.refresh(report, stop=stop)

    def search(self, word: str = "") -> Sequence[Recipe]:
        """The recipes with *word* in a name, an alias or the description, by name."""
        return self._catalog.search(word)

    def create(
        self,
        text: str,
        source: Source,
        *,
        quantize: str | None = None,
        parameters: Mapping[str, object] | None = None,
        licenses: Sequence[str] = (),
        report: ReportProgress = ignore,
    ) -> bool:
        """Store *source* as *text*; False if nothing changed.

        Args:
            source: A checkpoint folder or a GGUF; the name of a model, which is pulled if
                it is not there; or uploaded files, name → digest.
            quantize: What the weights become; None is f16 for a checkpoint, and for all
                else what they are.
            parameters: As in a Modelfile; they win over those of the source.
            licenses: Added to those of the source.

        Raises:
            InvalidModelNameError: *text* or *source* is no name.
            InvalidInputError: *source* does not exist or cannot become that, *quantize* is
                unknown, or a parameter has the wrong type.
            PullError: *source* is a model that cannot be fetched.
            ConversionError, ModelLoadError: *source* is damaged or not understood.
            StoreError: The store cannot be written.
        """
        creation = parse_creation(
            text, quantize=quantize, parameters=parameters, licenses=tuple(licenses)
        )
        return self._creator.create(creation, source, report)

    def copy(self, source: str, destination: str) -> None:
        """Let *destination* name what *source* names; blobs are shared.

        Raises:
            InvalidModelNameError: One is no name.
            ModelNotFoundError: There is no *source*.
            StoreError: The store cannot be written.
        """
        target = parse_model_name(destination)
        stored = self._find(source)
        with self._store.open_for_change():
            self._store.commit(target, stored.manifest)
        _log.info("model copied", extra={"model": target.display, "source": source})

    def show(self, text: str, *, verbose: bool = False) -> Shown:
        """All that is known of the model *text*, readable or not.

        Args:
            verbose: Whether the arrays of its metadata are read too.

        Raises:
            InvalidModelNameError: *text* is no name.
            ModelNotFoundError: There is no such model.
            StoreError: The store cannot be read.
        """
        stored = self._find(text)
        try:
            metadata = read_metadata(self._resolver.describe(stored), verbose=verbose)
        except EmbeddError:
            metadata = ModelMetadata(info={}, tensors=())
        return Shown(
            entry=self._entry(stored), texts=read_texts(self._store, stored), metadata=metadata
        )

    def verify(self, text: str | None = None, report: ReportProgress = ignore) -> Verified:
        """Hash the blobs of the model *text*, or all blobs, again.

        Raises:
            InvalidModelNameError: *text* is no name.
            ModelNotFoundError: There is no such model.
            StoreError: The store cannot be listed.
        """
        verifier = Verifier(self._store, report)
        if text is not None:
            verifier.verify_models([self._find(text).name])
            return verifier.result()
        verifier.verify_models(self._store.manifests.names())
        return verifier.result(unused=verifier.verify_others())

    def disk_use(self) -> int:
        """Bytes of all blobs, each once however many models share it.

        Raises:
            StoreError: The store cannot be listed.
        """
        blobs = self._store.blobs
        paths = (blobs.path(digest) for digest in blobs.digests())
        return sum(path.stat().st_size for path in paths if path.exists())

    def has_blob(self, digest: str) -> bool:
        """Whether a file of this digest is stored.

        Raises:
            InvalidInputError: *digest* is no digest.
        """
        return self._store.blobs.has(digest)

    @contextmanager
    def open_upload(self) -> Iterator[Incoming]:
        """A file for `create` on its way into the store; gone at the end unless kept.

        Raises:
            StoreError: The store cannot be made.
        """
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            yield incoming

    def is_shared(self, text: str) -> bool:
        """Whether another name means the same model in memory as *text*.

        Raises:
            ModelNotFoundError: There is no model *text*.
            EmbeddError: It cannot be loaded.
        """
        model = self._resolver.resolve(text)
        return any(
            self._key_of(stored) == model.spec.key
            for stored in self._stored()
            if stored.name != model.name
        )

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

    def _find(self, text: str) -> StoredManifest:
        stored = self._store.manifests.read(parse_model_name(text))
        if stored is None:
            raise ModelNotFoundError(text)
        return stored

    def _key_of(self, stored: StoredManifest) -> object:
        """What it is in memory; None if it cannot be."""
        try:
            return self._resolver.describe(stored).spec.key
        except EmbeddError:
            return None

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
