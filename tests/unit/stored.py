"""Puts models into a store without the library."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from embedd.names import parse_model_name
from embedd.store.blobs import Blob, BlobStore, Report
from embedd.store.manifests import (
    CONFIG_TYPE,
    MODEL,
    PARAMS,
    ConfigBlob,
    Manifest,
    StoredManifest,
    make_layer,
)
from embedd.store.store import Store


def store_model(
    store: Store,
    name: str,
    gguf: Path | None,
    parameters: Mapping[str, object] | bytes | None = None,
    config: ConfigBlob | bytes = b"{}",
) -> StoredManifest:
    """Store *gguf* and *parameters* as *name*; bytes are stored as they are."""
    with store.open_for_change():
        layers = []
        if gguf is not None:
            layers.append(make_layer(MODEL, add_file(store.blobs, gguf)))
        if parameters is not None:
            layers.append(make_layer(PARAMS, store.blobs.add_bytes(_encode(parameters))))
        blob = store.blobs.add_bytes(_encode(config))
        manifest = Manifest(config=make_layer(CONFIG_TYPE, blob), layers=layers)
        store.commit(parse_model_name(name), manifest)
    stored = store.manifests.read(parse_model_name(name))
    assert stored is not None
    return stored


def store_image_model(
    store: Store,
    name: str,
    paths: Mapping[str, Path],
    parameters: Mapping[str, object] | bytes | None = None,
) -> StoredManifest:
    """Store the files of an image model by component; a layer without a name for ``""``."""
    with store.open_for_change():
        layers = [
            make_layer(MODEL, add_file(store.blobs, path), part) for part, path in paths.items()
        ]
        if parameters is not None:
            layers.append(make_layer(PARAMS, store.blobs.add_bytes(_encode(parameters))))
        config = make_layer(CONFIG_TYPE, store.blobs.add_bytes(b"{}"))
        store.commit(parse_model_name(name), Manifest(config=config, layers=layers))
    stored = store.manifests.read(parse_model_name(name))
    assert stored is not None
    return stored


def add_file(
    blobs: BlobStore, source: Path, *, expected: str | None = None, report: Report | None = None
) -> Blob:
    """Store a copy of the file *source*, as an upload or a create does."""
    with blobs.open_incoming() as incoming:
        incoming.copy_from(source, report)
        incoming.seal(expected)
        return incoming.keep()


def _encode(value: object) -> bytes:
    return value if isinstance(value, bytes) else msgspec.json.encode(value)
