"""The library: lists, shows, pulls, creates, copies and deletes models of a store."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from msgspec import structs

from embedd.catalog.catalog import AnyRecipe, Catalog
from embedd.catalog.suggestions import Suggestions
from embedd.engine.spec import ModelSpec
from embedd.errors import EmbeddError, ModelNotFoundError, StoreError, UnsupportedError
from embedd.library.create import Creator, Source, parse_creation
from embedd.library.draft import read_config
from embedd.library.progress import ReportProgress, ignore
from embedd.library.pull import Puller, Refreshed
from embedd.library.pull_hub import OpenHub, no_hub
from embedd.library.quantize import Quantize, Verify, Weights
from embedd.library.show import read_show_reply
from embedd.library.uploads import UploadClaims
from embedd.library.verify import Verified, Verifier
from embedd.names import parse_model_name
from embedd.ollama_api import ShowReply, StoredModel
from embedd.resolve import AnyModel, ResolvedModel, Resolver, details_of_config
from embedd.store.blobs import Incoming
from embedd.store.layout import parse_digest
from embedd.store.manifests import StoredManifest
from embedd.store.remote import Stop, never
from embedd.store.store import Store

_log = logging.getLogger(__name__)


StoredModels: TypeAlias = list[StoredModel]


class Library:
    """The models of one store. All calls block.

    Args:
        verify: Loads a converted GGUF and encodes with it; raises if that fails. Called
            before the file becomes part of the store.
        open_hub: Makes a client of the hub, when one is needed first.
        quantize: Writes a GGUF with other weights.
        suggestions: Finds names like one that does not exist.
        find_tokenizer: Finds out whose tokenizer serves a model, if that is known.
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
        suggestions: Suggestions | None = None,
        find_tokenizer: Callable[[ModelSpec], str | None] = lambda _: None,
    ) -> None:
        self._store = store
        self._suggestions = suggestions or Suggestions(catalog, list)
        self._resolver = resolver
        self._catalog = catalog
        self._find_tokenizer = find_tokenizer
        self._puller = Puller(store, catalog, verify, open_hub, self._suggestions)
        weights = Weights(verify=verify, quantize=quantize)
        self._claims = UploadClaims()
        self._creator = Creator(store, resolver, weights, self.pull, self._claims)

    def pull(
        self,
        text: str,
        report: ReportProgress = ignore,
        *,
        stop: Stop = never,
        insecure: bool = False,
    ) -> bool:
        """Pull the model *text*; return False if nothing changed.

        Its source is the recipe in the catalogue, or the repository in a name that begins
        with ``hf.co``. A broken download resumes next time; two pulls of one file share
        its download.

        Args:
            stop: Called often; True ends the pull, and the download if no other pull waits
                for it.
            insecure: Whether the name may have the scheme http.

        Raises:
            InvalidModelNameError: *text* is not a model name.
            PullError: There is no source, or it refuses, cannot be reached, is not
                installed or sends other bytes than expected; or *stop* returned True.
            ModelLoadError, UnsupportedError: The file cannot be used for embeddings.
            ConversionError: The checkpoint cannot be converted.
            StoreError: The store cannot be written.
        """
        return self._puller.pull(text, report, stop=stop, insecure=insecure)

    def refresh(
        self, report: ReportProgress = ignore, *, stop: Stop = never
    ) -> Sequence[Refreshed]:
        """Pull every pulled model again; one that fails does not keep others from it.

        Raises:
            PullError: *stop* returned True.
            StoreError: The store cannot be read at all.
        """
        return self._puller.refresh(report, stop=stop)

    def search(self, word: str = "") -> Sequence[AnyRecipe]:
        """The recipes with *word* in a name, an alias or the description, by name."""
        return self._catalog.search(word)

    def create(
        self,
        text: str,
        source: Source,
        *,
        components: Mapping[str, Path | str] | None = None,
        quantize: str | None = None,
        parameters: Mapping[str, object] | None = None,
        licenses: Sequence[str] = (),
        report: ReportProgress = ignore,
    ) -> bool:
        """Store *source* as the model *text*; return False if nothing changed.

        Args:
            source: A checkpoint folder or a GGUF; the name of a model, which is pulled if
                it is not stored; or uploaded files, name → digest.
            components: Further files of an image model, or digests of uploaded ones; the name
                of the component → file.
            quantize: Type of the weights; None is f16 for a checkpoint, and the present
                type for everything else.
            parameters: As in a Modelfile; they override those of the source.
            licenses: Added to those of the source.

        Raises:
            InvalidModelNameError: *text* or *source* is not a model name.
            InvalidInputError: *source* does not exist or cannot be quantised, *quantize*
                or a component is unknown, missing or another one, or a parameter has the
                wrong type.
            PullError: *source* is a model that cannot be pulled.
            ConversionError, ModelLoadError: *source* is damaged or not supported.
            StoreError: The store cannot be written.
        """
        creation = parse_creation(
            text,
            components=components,
            quantize=quantize,
            parameters=parameters,
            licenses=tuple(licenses),
        )
        return self._creator.create(creation, source, report)

    def copy(self, source: str, destination: str) -> None:
        """Copy the model *source* to the name *destination*; blobs are shared.

        Raises:
            InvalidModelNameError: One of them is not a model name.
            ModelNotFoundError: There is no model *source*.
            StoreError: The store cannot be written.
        """
        target = parse_model_name(destination)
        stored = self._find(source)
        with self._store.open_for_change():
            self._store.commit(target, stored.manifest)
        _log.info("model copied", extra={"model": target.display, "source": source})

    def show(self, text: str, *, verbose: bool = False) -> ShowReply:
        """Everything that is known about the model *text*, even if its GGUF is damaged.

        Args:
            verbose: Whether to read the arrays of its metadata too.

        Raises:
            InvalidModelNameError: *text* is not a model name.
            ModelNotFoundError: There is no such model.
            StoreError: The store cannot be read.
        """
        stored = self._find(text)
        model = self._describe(stored)
        reply = read_show_reply(
            self._store, stored, self._entry(stored, model), model, verbose=verbose
        )
        if isinstance(model, ResolvedModel) and (found := self._find_tokenizer(model.spec)):
            return structs.replace(reply, tokenizer=found)
        return reply

    def verify(self, text: str | None = None, report: ReportProgress = ignore) -> Verified:
        """Hash the blobs of the model *text*, or all blobs, again.

        Raises:
            InvalidModelNameError: *text* is not a model name.
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
        """Whether a file of this digest is stored; one that is stays for the next `create`.

        Raises:
            InvalidInputError: *digest* is not a digest.
        """
        found = self._store.blobs.has(digest)
        if found:
            self.claim_blob(digest)
        return found

    def claim_blob(self, digest: str) -> None:
        """Note that a client will create a model of the stored file *digest*.

        Raises:
            InvalidInputError: *digest* is not a digest.
        """
        self._claims.add(parse_digest(digest))

    def prune(self) -> Sequence[str]:
        """Remove the files that no model uses; return their names.

        Blobs stay for an hour and partial downloads for a day: they may be about to be used.

        Raises:
            UnsupportedError: embedd did not create the store, or a setting forbids pruning.
            StoreError: A manifest or the store cannot be read.
        """
        if not self._store.prunes:
            raise UnsupportedError(
                f"{self._store.layout.root} is not pruned: it was not created by embedd, or "
                "EMBEDD_NOPRUNE is set"
            )
        self._store.manifests.used_digests()  # raises what `Store.prune` only logs
        return self._store.prune()

    @contextmanager
    def open_upload(self) -> Iterator[Incoming]:
        """A new file in the store, for `create`; removed at the end unless it was kept.

        Raises:
            StoreError: The store cannot be made.
        """
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            yield incoming

    def is_shared(self, text: str) -> bool:
        """Whether another name stands for the same model in memory as *text*.

        Raises:
            ModelNotFoundError: There is no model *text*.
            EmbeddError: It cannot be loaded.
        """
        model = self._resolver.find(text)
        return any(
            self._key_of(stored) == model.spec.key
            for stored in self._stored()
            if stored.name != model.name
        )

    def delete(self, text: str) -> None:
        """Delete the model *text*, and the blobs that no other model needs.

        Raises:
            InvalidModelNameError: *text* is not a model name.
            ModelNotFoundError: There is no such model; with the name as sent.
            StoreError: It cannot be deleted.
        """
        if not self._store.delete(parse_model_name(text)):
            raise ModelNotFoundError(text, hint=self._suggestions.for_use(text))

    def list(self) -> StoredModels:
        """All models whose manifest can be read, newest first; without capabilities if damaged.

        Raises:
            StoreError: The store cannot be read at all.
        """
        entries = [self._entry(stored, self._describe(stored)) for stored in self._stored()]
        return sorted(entries, key=lambda entry: (-entry.modified_at.timestamp(), entry.name))

    def _find(self, text: str) -> StoredManifest:
        stored = self._store.manifests.read(parse_model_name(text))
        if stored is None:
            raise ModelNotFoundError(text, hint=self._suggestions.for_use(text))
        return stored

    def _key_of(self, stored: StoredManifest) -> object:
        """Key of the model in memory; None if it cannot be loaded."""
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

    def _describe(self, stored: StoredManifest) -> AnyModel | None:
        """The model of a manifest; None, with a warning in the log, if it cannot be read."""
        try:
            return self._resolver.describe(stored)
        except EmbeddError as error:
            extra = {"model": stored.name.display, "cause": str(error)}
            _log.warning("model cannot be read", extra=extra)
            return None

    def _entry(self, stored: StoredManifest, model: AnyModel | None) -> StoredModel:
        name = stored.name.display
        if model is None:
            details = details_of_config(read_config(self._store, stored.manifest))
        else:
            details = model.details
        return StoredModel(
            name=name,
            model=name,
            modified_at=datetime.fromtimestamp(stored.modified_at, UTC).astimezone(),
            size=stored.manifest.size,
            digest=stored.digest,
            details=details,
            capabilities=list(model.capabilities) if model else [],
        )
