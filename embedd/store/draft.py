"""A model about to be stored: what its layers hold, and the storing of them all."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from embedd.errors import StoreError
from embedd.gguf.header import GgufFacts
from embedd.names import ModelName
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A model but for its GGUF.

    Args:
        parameters: For the params layer, as JSON; without any there is no such layer.
        license: Name or text; without one there is no such layer.
        licenses: Further ones, each a layer.
        kept: Layers of another model that this one takes over.
    """

    name: ModelName
    config: ConfigBlob
    parameters: Mapping[str, object] = field(default_factory=dict)
    license: str = ""
    licenses: tuple[str, ...] = ()
    kept: tuple[Layer, ...] = ()

    def small_blobs(self) -> Iterator[tuple[str, bytes]]:
        """Types and contents of the layers after the GGUF; the config comes last."""
        for text in (self.license, *self.licenses):
            if text:
                yield LICENSE, text.encode()
        if self.parameters:
            yield PARAMS, msgspec.json.encode(self.parameters)
        yield CONFIG_TYPE, msgspec.json.encode(self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Who is told what, while a model is stored: of each layer whether it was there before."""

    layer: Callable[[Layer, bool], None]
    writing: Callable[[], None]
    removed: Callable[[], None]


def store_draft(store: Store, draft: Draft, keep: Callable[[], Blob], steps: Steps) -> bool:
    """Store all blobs, then the manifest.

    Args:
        keep: Lets the GGUF appear in the store; called under the store's lock.

    Returns:
        False if the store had just this before; nothing was written then.

    Raises:
        StoreError: Writing failed; the name is as it was.
    """
    with store.open_for_change():
        before = set(store.blobs.digests())
        layers: list[Layer] = []
        try:
            layers += [make_layer(MODEL, keep()), *draft.kept]
            for kind, data in draft.small_blobs():
                layers.append(make_layer(kind, store.blobs.add_bytes(data)))
            for layer in layers:
                steps.layer(layer, layer.digest in before)
            manifest = Manifest(layers=layers[:-1], config=layers[-1])
            steps.writing()
            changed = read_manifest(store, draft.name) != manifest
            if changed and store.commit(draft.name, manifest):
                steps.removed()
        except BaseException:
            # Whoever is told of the steps may stop them: nobody would ever need these.
            store.discard({layer.digest for layer in layers} - before)
            raise
    return changed


def read_manifest(store: Store, name: ModelName) -> Manifest | None:
    """The manifest of *name*; None also if it cannot be read: then it is to be replaced."""
    try:
        stored = store.manifests.read(name)
    except StoreError:
        return None
    return stored.manifest if stored else None


def make_config(facts: GgufFacts, made_from: str = "") -> ConfigBlob:
    """The config of a model whose GGUF says *facts*."""
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
