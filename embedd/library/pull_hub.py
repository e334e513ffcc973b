"""Pulls a model from the hub: chooses the file, checks its header, downloads and stores it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from embedd.catalog.catalog import ImageOffer, Offer
from embedd.catalog.image_recipe import HubFile
from embedd.catalog.recipe import HubSource
from embedd.errors import ModelLoadError, NoSourceError, PullError, UnsupportedError
from embedd.gguf.header import GgufFacts, read_header_file
from embedd.images import ImagePart
from embedd.library.architectures import ARCHITECTURES
from embedd.library.draft import (
    Draft,
    draft_of_offer,
    make_config,
    prompt_parameters,
    read_config,
    read_manifest,
    store_draft,
)
from embedd.library.file_choice import choose_file, name_parts
from embedd.library.progress import ReportProgress, pulling, report_bytes
from embedd.library.pull_images import describe_terms, draft_of_image, find_remote_image
from embedd.library.remote_model import (
    Companions,
    check_usable,
    read_companions,
    read_remote_header,
    where,
)
from embedd.names import ModelName
from embedd.ollama_api import ProgressLine
from embedd.resolve import read_model_facts
from embedd.store.blobs import Blob, Report
from embedd.store.disk import Disk
from embedd.store.downloads import Downloads
from embedd.store.manifests import MODEL, make_layer
from embedd.store.partial import STOPPED, fetch_blob, partial_path
from embedd.store.remote import NOT_FOUND, RemoteBlob, Repository, Stop
from embedd.store.store import Store
from embedd.stored_images import ImageFiles

MOST_LISTED = 10  # files of a repository in an error
MAX_DOWNLOADS = 4  # parts of one model that are downloaded at the same time

if TYPE_CHECKING:
    from embedd.store.hub import Hub

OpenHub: TypeAlias = Callable[[], "Hub"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to pull from the hub.

    Args:
        tag: Chooses the file if there is no *offer*.
        offer: From the catalogue; what it says overrides the repository's own files.
    """

    name: ModelName
    repository: str
    tag: str = ""
    offer: Offer | None = None

    @property
    def source(self) -> HubSource | None:
        """The source in the catalogue, if there is one."""
        source = self.offer.source if self.offer else None
        return source if isinstance(source, HubSource) else None


def no_hub() -> "Hub":
    """Refuse every pull: for a library without a hub.

    Raises:
        NoSourceError: Always.
    """
    raise NoSourceError(NOT_FOUND)


class HubPuller:
    """Pulls from the hub into one store."""

    def __init__(self, store: Store, open_hub: OpenHub, disk: Disk | None = None) -> None:
        self._store = store
        self._open_hub = open_hub
        self._disk = disk or Disk()
        self._downloads = Downloads()

    def pull(self, wanted: Wanted, report: ReportProgress, stop: Stop) -> bool:
        """Download and store *wanted*; return False if nothing changed.

        Raises:
            PullError: The hub has no such file, refuses, or cannot be reached.
            ModelLoadError, UnsupportedError: By its header, the file cannot be used.
            StoreError: The store cannot be written.
        """
        hub = self._open_hub()
        repository, blobs = _locate(hub, wanted)
        check_stop(stop)
        companions = Companions() if wanted.offer else read_companions(hub, repository)
        facts = self._read_header(hub, blobs)
        if isinstance(facts, ImageFiles):
            image = _Image(files=facts, blobs=blobs, license=repository.license)
            return self._store_image(hub, wanted, image, report, stop)
        pooling = wanted.offer.recipe.pooling if wanted.offer else companions.pooling
        check_usable(facts, pooling, blobs[0])
        check_stop(stop)
        kept, *parts = self._download_all(hub, blobs, report, stop)
        check_stop(stop)
        if parts:
            facts = read_model_facts([self._store.blobs.path(one.digest) for one in (kept, *parts)])
        made_from = self._made_from(wanted, blobs[0])
        if wanted.offer is not None:
            draft = draft_of_offer(wanted.name, wanted.offer, facts, made_from)
        else:
            draft = _draft_of_companions(wanted.name, companions, facts, made_from)
        draft = replace(draft, kept=tuple(make_layer(MODEL, part) for part in parts))
        return store_draft(self._store, draft, lambda: kept, report, pulled=True)

    def pull_image(
        self, name: ModelName, offer: ImageOffer, report: ReportProgress, stop: Stop
    ) -> bool:
        """Download and store the files of a recipe of an image model; as `pull`."""
        hub = self._open_hub()
        first = _locate_file(hub, offer.source)
        components = {
            ImagePart(part): _locate_file(hub, file)
            for part, file in offer.recipe.components.items()
        }
        check_stop(stop)
        files = find_remote_image(hub, self._store, first, components)
        if files is None:
            raise UnsupportedError(f"{where(first)} was not pulled: it is not an image model")
        image = _Image(
            files=files,
            blobs=[first, *components.values()],
            license=offer.recipe.license,
            terms=offer.recipe.terms,
            parameters=offer.recipe.parameters,
        )
        wanted = Wanted(name=name, repository=offer.source.repository)
        return self._store_image(hub, wanted, image, report, stop)

    def _store_image(
        self, hub: "Hub", wanted: Wanted, image: "_Image", report: ReportProgress, stop: Stop
    ) -> bool:
        check_stop(stop)
        if terms := image.terms or describe_terms(image.license):
            report(ProgressLine(status=f"note: {terms}"))
        blobs = self._download_all(hub, image.blobs, report, stop)
        check_stop(stop)
        draft = draft_of_image(
            wanted.name,
            image.files,
            blobs,
            parameters=image.parameters,
            license_name=image.license,
            made_from=self._made_from(wanted, image.blobs[0]),
        )
        return store_draft(self._store, draft, lambda: blobs[0], report, pulled=True)

    def _read_header(self, hub: "Hub", blobs: Sequence[RemoteBlob]) -> GgufFacts | ImageFiles:
        first, layout = blobs[0], self._store.layout
        try:
            if self._store.blobs.has(first.digest, first.size):
                facts = read_header_file(layout.blob(first.digest))
            else:
                facts = read_remote_header(hub, first, partial_path(layout, first.digest))
        except ModelLoadError:
            # Files that stable-diffusion.cpp writes have no architecture; safetensors are no GGUF.
            image = find_remote_image(hub, self._store, first, {}) if len(blobs) == 1 else None
            if image is None:
                raise
            return image
        if facts.architecture in ARCHITECTURES or len(blobs) > 1:
            return facts
        return find_remote_image(hub, self._store, first, {}) or facts

    def _download_all(
        self, hub: "Hub", blobs: Sequence[RemoteBlob], report: ReportProgress, stop: Stop
    ) -> list[Blob]:
        """Download all files of the model, the parts of a split one at the same time.

        If one fails, the others stop.
        """
        if len(blobs) == 1:
            return [self._download(hub, blobs[0], report, stop)]
        failed = threading.Event()
        lock = threading.Lock()

        def report_one(line: ProgressLine) -> None:
            with lock:
                report(line)

        def download(blob: RemoteBlob) -> Blob:
            try:
                return self._download(hub, blob, report_one, lambda: failed.is_set() or stop())
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(MAX_DOWNLOADS, "pull") as pool:
            futures = [pool.submit(download, blob) for blob in blobs]
        # A failure that is not a stop is the cause of the others.
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda error: STOPPED in str(error)):
            raise error
        return [future.result() for future in futures]

    def _download(self, hub: "Hub", blob: RemoteBlob, report: ReportProgress, stop: Stop) -> Blob:
        wanted = Blob(digest=blob.digest, size=blob.size)
        status = pulling(blob.digest)
        if self._store.blobs.has(blob.digest, blob.size):
            return wanted
        report(ProgressLine(status=status, digest=blob.digest, total=blob.size))
        self._store.prepare()

        def transfer(abandoned: Stop, report_transfer: Report) -> Blob:
            stream = partial(hub.stream, blob)
            return fetch_blob(
                self._store.layout,
                self._disk,
                wanted,
                stream,
                stop=abandoned,
                report=report_transfer,
            )

        report_this = report_bytes(report, status, digest=blob.digest)
        return self._downloads.fetch(blob.digest, transfer, stop=stop, report=report_this)

    def _made_from(self, wanted: Wanted, blob: RemoteBlob) -> str:
        """Repository, commit and path of the file, for the config.

        The commit of an earlier pull is kept as long as the file is the same: a new README
        does not change the model.
        """
        start, end = f"hf.co/{blob.repository}@", f"/{blob.path}"
        manifest = read_manifest(self._store, wanted.name)
        if manifest is not None:
            before = read_config(self._store, manifest).made_from
            same = any(layer.digest == blob.digest for layer in manifest.of_type(MODEL))
            if same and before.startswith(start) and before.endswith(end):
                return before
        return f"{start}{blob.commit}{end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """An image model that is about to be downloaded."""

    files: ImageFiles
    blobs: Sequence[RemoteBlob]
    license: str
    terms: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)


def check_stop(stop: Stop) -> None:
    """Raise `PullError` if *stop* returns True."""
    if stop():
        raise PullError(STOPPED)


def _locate(hub: "Hub", wanted: Wanted) -> tuple[Repository, list[RemoteBlob]]:
    """The repository, and the wanted file, or all parts of it if it is split."""
    recipe = wanted.source
    repository = hub.look_up(wanted.repository, recipe.revision if recipe else None)
    if recipe is not None:
        path = recipe.file
    else:
        file = choose_file(repository.files, wanted.tag)
        path = file.path if file else ""
    paths = name_parts(path)
    if not all(map(repository.has, paths)):
        raise NoSourceError(f"{NOT_FOUND}: {_describe_missing(wanted, repository, paths)}")
    blob, *parts = [hub.locate(repository, part) for part in paths]
    _check_digest(blob, recipe.sha256 if recipe else None)
    return repository, [blob, *parts]


def _describe_missing(wanted: Wanted, repository: Repository, paths: Sequence[str]) -> str:
    """What *repository* has instead of the wanted file, or instead of one part of it."""
    if paths != [""]:
        missing = next(path for path in paths if not repository.has(path))
        return f"{repository.name} has no file {missing}"
    ggufs = [file.path for file in repository.files if file.path.lower().endswith(".gguf")]
    if not ggufs:
        return (
            f"{repository.name} has no GGUF: pull a repository of its GGUFs, or download it "
            "and run `embedd create NAME --from FOLDER`"
        )
    more = f" and {len(ggufs) - MOST_LISTED} more" if len(ggufs) > MOST_LISTED else ""
    listed = ", ".join(sorted(ggufs)[:MOST_LISTED])
    return f'{repository.name} has nothing for the tag "{wanted.tag}": it has {listed}{more}'


def _locate_file(hub: "Hub", file: HubFile) -> RemoteBlob:
    repository = hub.look_up(file.repository, file.revision)
    if not repository.has(file.file):
        raise PullError(f"{NOT_FOUND} ({file.file} of {file.repository})")
    blob = hub.locate(repository, file.file)
    _check_digest(blob, file.sha256)
    return blob


def _check_digest(blob: RemoteBlob, sha256: str | None) -> None:
    expected = f"sha256:{sha256}" if sha256 else blob.digest
    if blob.digest != expected:
        raise PullError(
            "digest mismatch, file must be downloaded again: "
            f"want {expected}, got {blob.digest} ({blob.path} of {blob.repository} has changed)"
        )


def _draft_of_companions(
    name: ModelName, companions: Companions, facts: GgufFacts, made_from: str
) -> Draft:
    parameters: dict[str, object] = {}
    # What the GGUF itself says overrides the files beside it.
    says_nothing = facts.pooling is None and not facts.is_reranker
    if companions.pooling is not None and says_nothing:
        parameters["pooling"] = companions.pooling.value
    parameters |= prompt_parameters(companions.prompts)
    license_text = companions.license or str(facts.metadata.get("general.license", ""))
    return Draft(
        name=name,
        config=make_config(facts, made_from),
        parameters=parameters,
        licenses=(license_text,),
    )
