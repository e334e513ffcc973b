"""Image models on the hub: the headers of their files, what their licence is, what is stored."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from embedd.components.tensor_file import TensorFile, read_tensor_file
from embedd.errors import InvalidInputError, UnsupportedError
from embedd.images import ImagePart
from embedd.library.draft import Draft
from embedd.library.remote_model import read_remote_tensors, where
from embedd.names import ModelName
from embedd.store.blobs import Blob
from embedd.store.manifests import MODEL, make_layer
from embedd.store.partial import partial_path
from embedd.store.remote import RemoteBlob
from embedd.store.store import Store
from embedd.stored_images import ImageFiles, check_image_files

if TYPE_CHECKING:
    from embedd.store.hub import Hub

_NON_COMMERCIAL: Final = re.compile(r"\bnon-?\s?commercial\b|\bnc\b", re.IGNORECASE)


def describe_terms(license_name: str) -> str:
    """What to show before a download, if the name of the licence says that it restricts it."""
    if not _NON_COMMERCIAL.search(license_name.replace("_", "-")):
        return ""
    return f"the licence of this model ({license_name}) is for non-commercial use"


def find_remote_image(
    hub: "Hub", store: Store, first: RemoteBlob, components: Mapping[ImagePart, RemoteBlob]
) -> ImageFiles | None:
    """The image model in these files, by their headers; None if *first* is not one.

    Raises:
        PullError: A header cannot be read.
        ModelLoadError: A file is damaged.
        UnsupportedError: The model cannot be painted with, or lacks components.
    """
    read = {part: _read(hub, store, blob) for part, blob in components.items()}
    try:
        return check_image_files(_read(hub, store, first), read)
    except (InvalidInputError, UnsupportedError) as error:
        raise UnsupportedError(f"{where(first)} was not pulled: {error}") from error


def draft_of_image(
    name: ModelName,
    files: ImageFiles,
    blobs: Sequence[Blob],
    *,
    parameters: Mapping[str, object],
    license_name: str,
    made_from: str,
) -> Draft:
    """The draft of an image model whose files are *blobs*, in the order of *files*."""
    first, *others = files.files
    layers = [make_layer(MODEL, blob, part) for part, blob in zip(others, blobs[1:], strict=True)]
    return Draft(
        name=name,
        config=files.make_config(made_from),
        part=first,
        parameters=parameters,
        licenses=(license_name,),
        kept=tuple(layers),
    )


def _read(hub: "Hub", store: Store, blob: RemoteBlob) -> TensorFile:
    if store.blobs.has(blob.digest, blob.size):
        return read_tensor_file(store.blobs.path(blob.digest))
    return read_remote_tensors(hub, blob, partial_path(store.layout, blob.digest))
