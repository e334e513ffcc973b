"""Pulling from a hub of models: choose the file, look into it, fetch it, store it."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from embedd.catalog.catalog import Offer
from embedd.catalog.recipe import HubSource
from embedd.errors import PullError
from embedd.gguf.header import GgufFacts, read_header_file
from embedd.library.file_choice import choose_file, name_parts
from embedd.library.progress import Progress, ReportProgress, bytes_as, pulling, tell_pulled
from embedd.library.remote_facts import (
    Companions,
    check_usable,
    read_companions,
    read_remote_header,
)
from embedd.library.storage import (
    draft_of_offer,
    prefixes,
    read_config,
    store_model,
)
from embedd.names import ModelName
from embedd.resolve import read_model_facts
from embedd.store.blobs import Blob, Report
from embedd.store.disk import Disk
from embedd.store.downloads import Downloads
from embedd.store.draft import Draft, make_config, read_manifest
from embedd.store.manifests import MODEL, make_layer
from embedd.store.partial import STOPPED, fetch_blob, partial_path
from embedd.store.remote import RemoteBlob, Repository, Stop
from embedd.store.store import Store

HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})
MAX_TRANSFERS = 4  # parts of one model that are fetched side by side
NOT_FOUND = "pull model manifest: file does not exist"

if TYPE_CHECKING:
    from embedd.store.hub import Hub

OpenHub: TypeAlias = Callable[[], "Hub"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to pull from the hub.

    Args:
        tag: Names the file where *offer* does not.
        offer: What the catalogue says of it; it knows better than the repository.
    """

    name: ModelName
    repository: str
    tag: str = ""
    offer: Offer | None = None

    @property
    def source(self) -> HubSource | None:
        """The catalogue's source, if it names one."""
        source = self.offer.source if self.offer else None
        return source if isinstance(source, HubSource) else None


def no_hub() -> "Hub":
    """Refuse every pull: for a library without a hub.

    Raises:
        PullError: Always.
    """
    raise PullError(NOT_FOUND)


class HubPuller:
    """Pulls from the hub into one store."""

    def __init__(self, store: Store, open_hub: OpenHub, disk: Disk | None = None) -> None:
        self._store = store
        self._open_hub = open_hub
        self._disk = disk or Disk()
        self._downloads = Downloads()

    def pull(self, wanted: Wanted, report: ReportProgress, stop: Stop) -> bool:
        """Fetch *wanted*; False if nothing changed.

        Raises:
            PullError: The source has no such file, refuses, or cannot be reached.
            ModelLoadError, UnsupportedError: Its header says that it would be of no use.
            StoreError: The store cannot be written.
        """
        hub = self._open_hub()
        repository, blobs = _locate(hub, wanted)
        go_on(stop)
        companions = Companions() if wanted.offer else read_companions(hub, repository)
        facts = self._look_into(hub, blobs[0])
        pooling = wanted.offer.recipe.pooling if wanted.offer else companions.pooling
        check_usable(facts, pooling, blobs[0])
        go_on(stop)
        kept, *parts = self._fetch_all(hub, blobs, report, stop)
        go_on(stop)
        if parts:
            facts = read_model_facts([self._store.blobs.path(one.digest) for one in (kept, *parts)])
        made_from = self._made_from(wanted, blobs[0])
        if wanted.offer is not None:
            draft = draft_of_offer(wanted.name, wanted.offer, facts, made_from)
        else:
            draft = _draft_of_companions(wanted.name, companions, facts, made_from)
        draft = replace(draft, kept=tuple(make_layer(MODEL, part) for part in parts))
        return store_model(self._store, draft, lambda: kept, report, tell_pulled, verified=True)

    def _look_into(self, hub: "Hub", blob: RemoteBlob) -> GgufFacts:
        layout = self._store.layout
        if self._store.blobs.has(blob.digest, blob.size):
            return read_header_file(layout.blob(blob.digest))
        return read_remote_header(hub, blob, partial_path(layout, blob.digest))

    def _fetch_all(
        self, hub: "Hub", blobs: Sequence[RemoteBlob], report: ReportProgress, stop: Stop
    ) -> list[Blob]:
        """The files of the model, the parts of a split one side by side.

        If one fails the others stop.
        """
        if len(blobs) == 1:
            return [self._fetch(hub, blobs[0], report, stop)]
        failed = threading.Event()
        telling = threading.Lock()

        def tell(progress: Progress) -> None:
            with telling:
                report(progress)

        def fetch(blob: RemoteBlob) -> Blob:
            try:
                return self._fetch(hub, blob, tell, lambda: failed.is_set() or stop())
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(MAX_TRANSFERS, "pull") as pool:
            futures = [pool.submit(fetch, blob) for blob in blobs]
        # The first failure is the cause; those after it were stopped.
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda error: STOPPED in str(error)):
            raise error
        return [future.result() for future in futures]

    def _fetch(self, hub: "Hub", blob: RemoteBlob, report: ReportProgress, stop: Stop) -> Blob:
        wanted = Blob(digest=blob.digest, size=blob.size)
        status = pulling(blob.digest)
        if self._store.blobs.has(blob.digest, blob.size):
            return wanted
        report(Progress(status=status, digest=blob.digest, total=blob.size))
        self._store.prepare()

        def transfer(abandoned: Stop, tell: Report) -> Blob:
            stream = partial(hub.stream, blob)
            layout = self._store.layout
            return fetch_blob(layout, self._disk, wanted, stream, stop=abandoned, report=tell)

        tell = bytes_as(report, status, digest=blob.digest)
        return self._downloads.fetch(blob.digest, transfer, stop=stop, report=tell)

    def _made_from(self, wanted: Wanted, blob: RemoteBlob) -> str:
        """Where the file came from, pinned.

        The commit of an earlier pull stays while the file is the same: a new readme does not
        make another model.
        """
        start, end = f"hf.co/{blob.repository}@", f"/{blob.path}"
        manifest = read_manifest(self._store, wanted.name)
        if manifest is not None:
            before = read_config(self._store, manifest).made_from
            same = any(layer.digest == blob.digest for layer in manifest.of_type(MODEL))
            if same and before.startswith(start) and before.endswith(end):
                return before
        return f"{start}{blob.commit}{end}"


def go_on(stop: Stop) -> None:
    """Nothing, unless nobody wants the result any more.

    Raises:
        PullError: Nobody does.
    """
    if stop():
        raise PullError(STOPPED)


def _locate(hub: "Hub", wanted: Wanted) -> tuple[Repository, list[RemoteBlob]]:
    """The repository, and the file that is wanted of it or the parts that make it up."""
    recipe = wanted.source
    repository = hub.look_up(wanted.repository, recipe.revision if recipe else None)
    if recipe is not None:
        path = recipe.file
    else:
        file = choose_file(repository.files, wanted.tag)
        path = file.path if file else ""
    paths = name_parts(path)
    if not all(map(repository.has, paths)):
        raise PullError(NOT_FOUND)
    blob, *parts = [hub.locate(repository, part) for part in paths]
    expected = f"sha256:{recipe.sha256}" if recipe and recipe.sha256 else blob.digest
    if blob.digest != expected:
        raise PullError(
            "digest mismatch, file must be downloaded again: "
            f"want {expected}, got {blob.digest} ({path} of {repository.name} has changed)"
        )
    return repository, [blob, *parts]


def _draft_of_companions(
    name: ModelName, companions: Companions, facts: GgufFacts, made_from: str
) -> Draft:
    parameters: dict[str, object] = {}
    # The file comes first: engine and converter agree on what it says.
    says_nothing = facts.pooling is None and not facts.is_reranker
    if companions.pooling is not None and says_nothing:
        parameters["pooling"] = companions.pooling.value
    prompts = companions.prompts
    document = prompts.get("document") or prompts.get("passage")
    parameters |= prefixes(prompts.get("query"), document)
    known = {"query", "document", "passage"}
    if others := {key: text for key, text in prompts.items() if key not in known}:
        parameters["prompts"] = others
    license_text = companions.license or str(facts.metadata.get("general.license", ""))
    return Draft(
        name=name,
        config=make_config(facts, made_from),
        parameters=parameters,
        license=license_text,
    )
