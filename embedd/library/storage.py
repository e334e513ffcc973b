"""What pulling and creating share: convert, store, read what is stored."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from embedd.catalog.catalog import Offer
from embedd.convert import Checkpoint, WeightType, convert_checkpoint
from embedd.errors import StoreError
from embedd.gguf.header import GgufFacts
from embedd.library.progress import Progress, ReportProgress, bytes_as
from embedd.names import ModelName
from embedd.store.blobs import Blob
from embedd.store.draft import Draft, Steps, make_config, store_draft
from embedd.store.manifests import ConfigBlob, Layer, Manifest
from embedd.store.store import Store

_log = logging.getLogger(__name__)

MAX_CONFIG_BYTES: Final = 1 << 20
PREFIXES: Final = ("query", "document")  # prompts that are parameters of their own

Verify: TypeAlias = Callable[[Path], None]


def convert(
    source: Path,
    target: Path,
    weights: WeightType,
    *,
    licence: str | None,
    verify: Verify | None,
    report: ReportProgress,
) -> Checkpoint:
    """Convert the checkpoint *source* to the GGUF *target*, and *verify* that."""
    report(Progress(status="converting model"))
    converted = convert_checkpoint(
        source,
        target,
        weights=weights,
        licence=licence,
        report=bytes_as(report, "converting model"),
    )
    if verify is not None:
        verify(target)
    return converted


def store_model(
    store: Store,
    draft: Draft,
    keep: Callable[[], Blob],
    report: ReportProgress,
    tell: Callable[[Layer, bool], Progress],
    *,
    verified: bool = False,
) -> bool:
    """Store *draft* and tell its steps, down to ``success``; False if nothing changed.

    Args:
        tell: Makes the line of a layer, given whether it was there before.
        verified: Whether to say, as a pull does, that the layers were compared.
    """

    def writing() -> None:
        # The layers were hashed on their way here: this line is where clients expect it.
        if verified:
            report(Progress(status="verifying sha256 digest"))
        report(Progress(status="writing manifest"))

    steps = Steps(
        layer=lambda layer, existed: report(tell(layer, existed)),
        writing=writing,
        removed=lambda: report(Progress(status="removing unused layers")),
    )
    changed = store_draft(store, draft, keep, steps)
    report(Progress(status="success"))
    if changed:
        _log.info("model stored", extra={"model": draft.name.display})
    return changed


def read_config(store: Store, manifest: Manifest) -> ConfigBlob:
    """The config of a model; an empty one if it cannot be read."""
    try:
        data = store.blobs.read(manifest.config.digest, MAX_CONFIG_BYTES)
        return msgspec.json.decode(data, type=ConfigBlob)
    except (StoreError, msgspec.DecodeError):
        return ConfigBlob()


def prefixes(query: str | None, document: str | None) -> dict[str, object]:
    """The parameters that hold these prefixes."""
    given = {"query_prefix": query, "document_prefix": document}
    return {name: text for name, text in given.items() if text}


def draft_of_offer(name: ModelName, offer: Offer, facts: GgufFacts, made_from: str) -> Draft:
    """The model *name* as its recipe says, but for its GGUF, whose header says *facts*."""
    recipe = offer.recipe
    parameters: dict[str, object] = {}
    if (num_ctx := recipe.num_ctx_of(offer.source)) is not None:
        parameters["num_ctx"] = num_ctx
    # Said once: what the file says itself is no parameter.
    if facts.pooling is not recipe.pooling:
        parameters["pooling"] = recipe.pooling.value
    parameters |= prefixes(recipe.prompts.get("query"), recipe.prompts.get("document"))
    width = offer.source.dimensions or recipe.dimensions
    others = {key: text for key, text in recipe.prompts.items() if key not in PREFIXES}
    facts_of_use = {
        "prompts": others,
        "matryoshka": [size for size in recipe.matryoshka if size <= width],
        "int8_range": recipe.int8_range,
    }
    parameters |= {key: value for key, value in facts_of_use.items() if value}
    return Draft(
        name=name,
        config=make_config(facts, made_from),
        parameters=parameters,
        license=recipe.license,
    )
