"""Creates a model from another model, a checkpoint, a GGUF or uploaded files."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from embedd.errors import ConversionError, InvalidInputError, ModelLoadError
from embedd.gguf.faults import find_fault
from embedd.gguf.header import read_header_file
from embedd.images import ImagePart
from embedd.library.create_images import (
    choose_single,
    find_components,
    find_image,
    order_paths,
    parse_components,
    store_image,
)
from embedd.library.draft import (
    Draft,
    make_config,
    prompt_parameters,
    read_config,
    store_draft,
)
from embedd.library.progress import ReportProgress, report_bytes
from embedd.library.quantize import FileType, Weights, parse_file_type
from embedd.library.uploads import (
    UploadClaims,
    blob_at,
    choose_ggufs,
    open_folder,
    parse_uploads,
)
from embedd.modelfile import INTEGERS, PARAMETERS
from embedd.names import ModelName, parse_model_name
from embedd.ollama_api import ProgressLine
from embedd.resolve import Resolver, choose_pooling, parse_parameters, read_model_facts
from embedd.store.blobs import Blob, hash_bytes
from embedd.store.layout import parse_digest
from embedd.store.manifests import LICENSE, MODEL, PARAMS, StoredManifest, make_layer
from embedd.store.store import Store
from embedd.stored_images import ImageFiles, StoredImageModel, parse_image_parameters

if TYPE_CHECKING:
    from embedd.convert.checkpoint import Checkpoint

_log = logging.getLogger(__name__)

# A checkpoint folder or a GGUF; a stored model; uploaded files: name → digest.
Source: TypeAlias = Path | str | Mapping[str, str]
Pull: TypeAlias = Callable[[str, ReportProgress], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """Name and properties of a new model.

    Args:
        components: Further files of an image model, or digests of such files that were
            uploaded; they override those of the source.
        quantize: Type of its weights; None is f16 for a checkpoint, and the present type
            for everything else.
        parameters: As in a Modelfile; they override those of the source.
        licenses: Added to those of the source.
    """

    name: ModelName
    components: Mapping[ImagePart, Path | str] = field(default_factory=dict)
    quantize: FileType | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    licenses: tuple[str, ...] = ()


def parse_creation(
    name: str,
    *,
    components: Mapping[str, Path | str] | None = None,
    quantize: str | None = None,
    parameters: Mapping[str, object] | None = None,
    licenses: tuple[str, ...] = (),
) -> Creation:
    """Parse the properties of a new model.

    Raises:
        InvalidModelNameError: *name* is not a model name.
        InvalidInputError: *quantize* or a component is unknown, or a parameter has the wrong
            type.
    """
    return Creation(
        name=parse_model_name(name),
        components=parse_components(components or {}),
        quantize=None if quantize is None else parse_file_type(quantize),
        parameters=_check_parameters(parameters or {}),
        licenses=licenses,
    )


class Creator:
    """Creates models in one store.

    Args:
        pull: Pulls a model that is not in the store, and reports its progress.
        claims: The uploads of other requests.
    """

    def __init__(
        self, store: Store, resolver: Resolver, weights: Weights, pull: Pull, claims: UploadClaims
    ) -> None:
        self._claims = claims
        self._store = store
        self._resolver = resolver
        self._weights = weights
        self._pull = pull

    def create(self, creation: Creation, source: Source, report: ReportProgress) -> bool:
        """Store *source* as the model *creation*; return False if nothing changed.

        Raises:
            InvalidModelNameError: The source is not a model name.
            InvalidInputError: The source does not exist, or cannot be quantised.
            PullError: The source is a model that cannot be pulled.
            ConversionError, ModelLoadError: The source is damaged or not supported.
            StoreError: The store cannot be written.
        """
        if isinstance(source, str):
            return self._from_model(creation, source, report)
        components = find_components(self._store, creation.components)
        if isinstance(source, Mapping):
            return self._from_uploads(creation, source, components, report)
        if source.is_dir():
            _refuse_components(creation, f"{source} is a folder")
            return self._from_checkpoint(creation, source, report)
        if not source.is_file():
            raise InvalidInputError(f"{source} does not exist: give a checkpoint folder or a GGUF")
        files = find_image(source, components)
        if files is not None:
            return self._from_image(creation, files, source, components, report)
        return self._from_file(creation, source, report)

    def _from_model(self, creation: Creation, text: str, report: ReportProgress) -> bool:
        base = self._read_base(text, report)
        resolved = self._resolver.describe(base)
        if isinstance(resolved, StoredImageModel):
            return self._from_image_model(creation, base, resolved, report)
        _refuse_components(creation, f'"{text}" is not an image model')
        first, *parts = base.manifest.of_type(MODEL)
        if parts and creation.quantize is not None:
            raise InvalidInputError(f'the GGUF of "{text}" is split: it cannot be quantized')
        others = [one for one in base.manifest.layers if one.media_type not in {MODEL, PARAMS}]
        kept = [*parts, *others]
        had = {one.digest for one in kept if one.media_type == LICENSE}
        fresh = [text for text in creation.licenses if hash_bytes(text.encode()) not in had]
        draft = Draft(
            name=creation.name,
            # It is no longer what was pulled: `pull --all` must leave it alone.
            config=msgspec.structs.replace(read_config(self._store, base.manifest), made_from=""),
            parameters=_merge(resolved.parameters.raw, creation.parameters),
            licenses=tuple(fresh),
            kept=tuple(kept),
        )
        blob = Blob(digest=first.digest, size=first.size)
        return self._store_gguf(draft, blob, creation.quantize, report)

    def _read_base(self, text: str, report: ReportProgress) -> StoredManifest:
        name = parse_model_name(text)
        stored = self._store.manifests.read(name)
        if stored is None:
            self._pull(text, _without_success(report))
            stored = self._store.manifests.read(name)
        if stored is None:
            raise InvalidInputError(f'model "{text}" was deleted while it was used')
        return stored

    def _from_image(
        self,
        creation: Creation,
        files: ImageFiles,
        first: Path,
        components: Mapping[ImagePart, Path],
        report: ReportProgress,
    ) -> bool:
        _refuse_quantizing(creation)
        draft = Draft(
            name=creation.name,
            config=files.make_config(),
            parameters=creation.parameters,
            licenses=creation.licenses,
        )
        return store_image(self._store, draft, files, order_paths(files, first, components), report)

    def _from_image_model(
        self,
        creation: Creation,
        base: StoredManifest,
        model: StoredImageModel,
        report: ReportProgress,
    ) -> bool:
        _refuse_quantizing(creation)
        components = find_components(self._store, creation.components)
        whole, *others = model.spec.parts.items()
        files = find_image(whole[1], {**dict(others), **components})
        if files is None:
            raise ModelLoadError(f'"{model.name.display}" is not an image model any more')
        others_kept = [one for one in base.manifest.layers if one.media_type not in {MODEL, PARAMS}]
        had = {one.digest for one in others_kept if one.media_type == LICENSE}
        draft = Draft(
            name=creation.name,
            config=files.make_config(),
            parameters=_merge(model.parameters, creation.parameters),
            licenses=tuple(
                text for text in creation.licenses if hash_bytes(text.encode()) not in had
            ),
            kept=tuple(others_kept),
        )
        paths = {**model.spec.parts, **components}
        return store_image(self._store, draft, files, paths, report)

    def _from_uploads(
        self,
        creation: Creation,
        source: Mapping[str, str],
        components: Mapping[ImagePart, Path],
        report: ReportProgress,
    ) -> bool:
        """Store uploaded files as a model; what it does not contain of them is removed."""
        paths = parse_uploads(source, self._store)
        try:
            first = choose_single(paths)
            files = find_image(first, components) if first is not None else None
            if first is not None and files is not None:
                changed = self._from_image(creation, files, first, components, report)
            else:
                changed = self._from_texts(creation, paths, report)
        except (ConversionError, ModelLoadError):
            self._remove_sources(source)  # no model can be made of them
            raise
        self._remove_sources(source)
        return changed

    def _remove_sources(self, source: Mapping[str, str]) -> None:
        digests = self._claims.release(parse_digest(text) for text in source.values())
        if digests and self._store.prunes:
            with self._store.open_for_change():
                self._store.discard(digests)

    def _from_texts(
        self, creation: Creation, paths: Mapping[str, Path], report: ReportProgress
    ) -> bool:
        _refuse_components(creation, "the files are not an image model")
        ggufs = choose_ggufs(paths)
        if not ggufs:
            with open_folder(paths) as folder:
                try:
                    return self._from_checkpoint(creation, folder, report)
                except ConversionError as error:
                    # Files are named as they were uploaded.
                    raise ConversionError(str(error).replace(f"{folder}/", "")) from error
        report(ProgressLine(status="parsing GGUF"))
        if len(ggufs) > 1 and creation.quantize is not None:
            raise InvalidInputError("a split GGUF cannot be quantized: give the checkpoint")
        blob, *parts = map(blob_at, ggufs)
        draft = _draft_of_gguf(creation, *ggufs)
        draft = replace(draft, kept=tuple(make_layer(MODEL, part) for part in parts))
        return self._store_gguf(draft, blob, creation.quantize, report)

    def _from_checkpoint(self, creation: Creation, source: Path, report: ReportProgress) -> bool:
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            converted = self._weights.convert(
                source, incoming.path, creation.quantize, report, name=creation.name.display
            )
            incoming.seal()
            draft = Draft(
                name=creation.name,
                config=make_config(read_header_file(incoming.path)),
                parameters=_merge(_parameters_of_checkpoint(converted), creation.parameters),
                licenses=creation.licenses,
            )
            return store_draft(self._store, draft, incoming.keep, report)

    def _from_file(self, creation: Creation, source: Path, report: ReportProgress) -> bool:
        report(ProgressLine(status="parsing GGUF"))
        _draft_of_gguf(creation, source)
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            incoming.copy_from(source, report_bytes(report, "copying file"))
            # Read the header of the copy: the source may have changed meanwhile.
            draft = _draft_of_gguf(creation, incoming.path)
            wanted = creation.quantize
            if wanted is None or wanted == draft.config.file_type:
                incoming.seal()
                return store_draft(self._store, draft, incoming.keep, report)
            with self._quantized(incoming.path, draft, wanted, report) as (small, keep):
                return store_draft(self._store, small, keep, report)

    def _store_gguf(
        self, draft: Draft, blob: Blob, file_type: FileType | None, report: ReportProgress
    ) -> bool:
        """Store *draft* with the GGUF *blob*, unchanged or quantised."""
        path = self._store.blobs.path(blob.digest)
        if file_type is None or file_type == read_header_file(path).quantization:
            return store_draft(self._store, draft, lambda: blob, report)
        with self._quantized(path, draft, file_type, report) as (small, keep):
            return store_draft(self._store, small, keep, report)

    @contextmanager
    def _quantized(
        self, path: Path, draft: Draft, file_type: FileType, report: ReportProgress
    ) -> Iterator[tuple[Draft, Callable[[], Blob]]]:
        """*draft* with weights of *file_type*, and the function that stores its GGUF."""
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            name = draft.name.display
            self._weights.quantize(path, incoming.path, file_type, report, name=name)
            incoming.seal()
            config = make_config(read_header_file(incoming.path))
            yield replace(draft, config=config), incoming.keep


def _refuse_components(creation: Creation, why: str) -> None:
    if creation.components:
        raise InvalidInputError(f"{why}: COMPONENT belongs to a model whose FROM is an image file")


def _refuse_quantizing(creation: Creation) -> None:
    if creation.quantize is not None:
        raise InvalidInputError(
            "an image model cannot be quantized by embedd: give a file that is quantized already"
        )


def _draft_of_gguf(creation: Creation, *paths: Path) -> Draft:
    facts = read_model_facts(paths)
    if facts.foreign_package is not None:
        raise ModelLoadError(f"{paths[0]} cannot be loaded: {facts.foreign_package}")
    pooling = choose_pooling(parse_parameters(creation.parameters).pooling, facts)
    if fault := find_fault(facts, pooling):
        raise ModelLoadError(f"{paths[0]} cannot be used: {fault}")
    return Draft(
        name=creation.name,
        config=make_config(facts),
        parameters=creation.parameters,
        licenses=creation.licenses,
    )


def _parameters_of_checkpoint(checkpoint: "Checkpoint") -> dict[str, object]:
    parameters: dict[str, object] = {}
    cut = checkpoint.max_seq_length
    if cut is not None and cut < checkpoint.graph.context_length:
        parameters["num_ctx"] = cut
    if checkpoint.matryoshka:
        parameters["matryoshka"] = list(checkpoint.matryoshka)
    return parameters | prompt_parameters(checkpoint.prompts)


def _without_success(report: ReportProgress) -> ReportProgress:
    """*report* without the line ``success``, which ends a pull but not the create."""

    def report_others(line: ProgressLine) -> None:
        if line.status != "success":
            report(line)

    return report_others


def _merge(base: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    return {**base, **changes}


def _check_parameters(given: Mapping[str, object]) -> dict[str, object]:
    """*given* without null values and unknown names."""
    known: dict[str, object] = {}
    for name, value in given.items():
        if name not in PARAMETERS:
            _log.warning("unknown parameter", extra={"parameter": name})
        elif value is not None:
            is_whole = name in INTEGERS and isinstance(value, float)
            known[name] = int(value) if is_whole else value  # type: ignore[call-overload]  # is_whole says it
    parse_parameters(known)
    parse_image_parameters(known)
    return known
