"""A model that is about to be stored: the contents of its layers, and storing them."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from embedd.catalog.catalog import Offer
from embedd.errors import StoreError
from embedd.gguf.header import GgufFacts
from embedd.library.progress import ReportProgress, created_line, pulled_line
from embedd.names import ModelName
from embedd.ollama_api import ProgressLine
from embedd.store.blobs import Blob
from embedd.store.manifests import (
    CONFIG_TYPE,
    LICENSE,
    MODEL,
    PARAMS,
    ConfigBlob,
    Layer,
    Manifest,
    make_layer,
)
from embedd.store.store import Store

_log = logging.getLogger(__name__)

MAX_CONFIG_BYTES: Final = 1 << 20
PREFIXES: Final = ("query", "document")  # prompts that are parameters of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A model without its GGUF.

    Args:
        part: Component of an image model that the first file is; empty for a GGUF of texts.
        parameters: For the params layer, as JSON; if empty there is no such layer.
        licenses: Names or texts, each a layer.
        kept: Layers of another model that are taken over, further parts of the GGUF, and
            further components of an image model.
    """

    name: ModelName
    config: ConfigBlob
    part: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    licenses: tuple[str, ...] = ()
    kept: tuple[Layer, ...] = ()

    def small_blobs(self) -> Iterator[tuple[str, bytes]]:
        """Types and contents of the layers after the GGUF; the config comes last."""
        for text in self.licenses:
            if text:
                yield LICENSE, text.encode()
        if self.parameters:
            yield PARAMS, msgspec.json.encode(self.parameters)
        yield CONFIG_TYPE, msgspec.json.encode(self.config)


def draft_of_offer(name: ModelName, offer: Offer, facts: GgufFacts, made_from: str) -> Draft:
    """The draft of *name* from its recipe and from *facts*, the header of its GGUF."""
    recipe = offer.recipe
    parameters: dict[str, object] = {}
    if (num_ctx := recipe.num_ctx_of(offer.source)) is not None:
        parameters["num_ctx"] = num_ctx
    # A parameter only where the file says something else.
    if facts.pooling is not recipe.pooling:
        parameters["pooling"] = recipe.pooling.value
    parameters |= prefix_parameters(recipe.prompts.get("query"), recipe.prompts.get("document"))
    width = offer.source.dimensions or recipe.dimensions
    others = {key: text for key, text in recipe.prompts.items() if key not in PREFIXES}
    optional = {
        "prompts": others,
        "matryoshka": [size for size in recipe.matryoshka if size <= width],
        "int8_range": recipe.int8_range,
    }
    parameters |= {key: value for key, value in optional.items() if value}
    return Draft(
        name=name,
        config=make_config(facts, made_from),
        parameters=parameters,
        licenses=(recipe.license,),
    )


def make_config(facts: GgufFacts, made_from: str = "") -> ConfigBlob:
    """The config of a model whose GGUF has the header *facts*."""
    return ConfigBlob(
        model_format="gguf",
        model_family=facts.architecture,
        model_families=[facts.architecture],
        model_type=facts.parameter_size,
        file_type=facts.quantization,
        architecture="amd64",
        os="linux",
        rootfs={"type": "layers", "diff_ids": []},
        made_from=made_from,
    )


def prefix_parameters(query: str | None, document: str | None) -> dict[str, object]:
    """The parameters ``query_prefix`` and ``document_prefix``, as far as there are such texts."""
    given = {"query_prefix": query, "document_prefix": document}
    return {name: text for name, text in given.items() if text}


def prompt_parameters(prompts: Mapping[str, str]) -> dict[str, object]:
    """The parameters for *prompts*, of which ``passage`` is another name of ``document``."""
    document = prompts.get("document") or prompts.get("passage")
    parameters = prefix_parameters(prompts.get("query"), document)
    known = {*PREFIXES, "passage"}
    if others := {name: text for name, text in prompts.items() if name not in known}:
        parameters["prompts"] = others
    return parameters


def store_draft(
    store: Store,
    draft: Draft,
    keep: Callable[[], Blob],
    report: ReportProgress,
    *,
    pulled: bool = False,
) -> bool:
    """Store all blobs, then the manifest; report the steps in Ollama's words.

    Args:
        keep: Moves the model's files into the store, and returns the first; called under the
            store's lock.
        report: It may raise to stop; the blobs that are new are removed then.
        pulled: Whether the lines are those of a pull instead of a create.

    Returns:
        False if the store had exactly this model before; nothing was written then.

    Raises:
        StoreError: Writing failed; the name is unchanged.
    """
    with store.open_for_change():
        before = set(store.blobs.digests())
        layers: list[Layer] = []
        try:
            layers += [make_layer(MODEL, keep(), draft.part), *draft.kept]
            for kind, data in draft.small_blobs():
                layers.append(make_layer(kind, store.blobs.add_bytes(data)))
            for layer in layers:
                report(
                    pulled_line(layer) if pulled else created_line(layer, layer.digest in before)
                )
            manifest = Manifest(layers=layers[:-1], config=layers[-1])
            if pulled:
                # The layers were hashed on their way here; clients expect this line now.
                report(ProgressLine(status="verifying sha256 digest"))
            report(ProgressLine(status="writing manifest"))
            changed = read_manifest(store, draft.name) != manifest
            if changed and store.commit(draft.name, manifest):
                report(ProgressLine(status="removing unused layers"))
        except BaseException:
            store.discard({layer.digest for layer in layers} - before)
            raise
    report(ProgressLine(status="success"))
    if changed:
        _log.info("model stored", extra={"model": draft.name.display})
    return changed


def read_manifest(store: Store, name: ModelName) -> Manifest | None:
    """The manifest of *name*; None if there is none, or if it cannot be read."""
    try:
        stored = store.manifests.read(name)
    except StoreError:
        return None
    return stored.manifest if stored else None


def read_config(store: Store, manifest: Manifest) -> ConfigBlob:
    """The config of a model; an empty one if it cannot be read."""
    try:
        data = store.blobs.read(manifest.config.digest, MAX_CONFIG_BYTES)
        return msgspec.json.decode(data, type=ConfigBlob)
    except (StoreError, msgspec.DecodeError):
        return ConfigBlob()
