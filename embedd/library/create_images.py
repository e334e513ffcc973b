"""Creates an image model from its files: in folders, uploaded, or those of another model."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from embedd.components.tensor_file import read_tensor_file
from embedd.errors import InvalidInputError, ModelLoadError
from embedd.images import ImagePart
from embedd.library.draft import Draft, store_draft
from embedd.library.progress import ReportProgress, report_bytes
from embedd.library.uploads import blob_at, is_gguf
from embedd.ollama_api import ProgressLine
from embedd.store.blobs import Blob, Incoming
from embedd.store.layout import parse_digest
from embedd.store.manifests import MODEL, make_layer
from embedd.store.store import Store
from embedd.stored_images import ImageFiles, check_image_files, read_image_files

SAFETENSORS: Final = ".safetensors"
COMPONENTS: Final = [
    part for part in ImagePart if part not in {ImagePart.MODEL, ImagePart.DIFFUSION}
]


def parse_components(given: Mapping[str, Path | str]) -> dict[ImagePart, Path | str]:
    """Component → file or digest, of the names in a Modelfile or a request.

    Raises:
        InvalidInputError: The component is unknown.
    """
    known = {part.value: part for part in COMPONENTS}
    for name in given:
        if name not in known:
            raise InvalidInputError(f'component "{name}" must be one of {", ".join(known)}')
    return {known[name]: file for name, file in given.items()}


def find_components(
    store: Store, components: Mapping[ImagePart, Path | str]
) -> dict[ImagePart, Path]:
    """The files of *components*; those given by digest are in the store.

    Raises:
        InvalidInputError: One does not exist.
    """
    found = {}
    for part, file in components.items():
        if isinstance(file, str):
            digest = parse_digest(file)
            if not store.blobs.has(digest):
                raise InvalidInputError(f'blob "{digest}" not found')
            file = store.blobs.path(digest)  # noqa: PLW2901 - the same file, by its path
        if not file.is_file():
            raise InvalidInputError(f"{file}, the file of COMPONENT {part}, does not exist")
        found[part] = file
    return found


def choose_single(files: Mapping[str, Path]) -> Path | None:
    """The uploaded file, if there is one alone that may be an image model."""
    if len(files) != 1:
        return None
    [(name, path)] = files.items()
    return path if name.lower().endswith(SAFETENSORS) or is_gguf(path) else None


def find_image(first: Path, components: Mapping[ImagePart, Path]) -> ImageFiles | None:
    """The image model in these files; None if *first* is a GGUF that reads texts, or damaged.

    Raises:
        ModelLoadError: A safetensors file is damaged, or is not an image model.
        UnsupportedError: The model cannot be painted with.
        InvalidInputError: A file is not what it is given as, or one is missing.
    """
    try:
        files = read_image_files(first, components)
    except ModelLoadError:
        if components or not is_gguf(first):
            raise
        return None
    if files is None and not is_gguf(first):
        raise ModelLoadError(
            f"{first} is a safetensors file, but not an image model that embedd knows: for an "
            "encoder give its folder, with config.json and the tokenizer"
        )
    return files


def store_image(
    store: Store,
    draft: Draft,
    files: ImageFiles,
    paths: Mapping[ImagePart, Path],
    report: ReportProgress,
) -> bool:
    """Store the files at *paths*, or those in the store already, as the model of *draft*.

    Returns:
        As `store_draft`.

    Raises:
        ModelLoadError, InvalidInputError: A file changed while it was copied.
        StoreError: Writing failed.
    """
    store.prepare()
    with ExitStack() as stack:
        incoming: list[Incoming] = []
        blobs: dict[ImagePart, Blob] = {}
        copies = dict(paths)
        for part, path in paths.items():
            if path.parent == store.layout.blobs:
                blobs[part] = blob_at(path)
                continue
            one = stack.enter_context(store.blobs.open_incoming())
            one.copy_from(path, report_bytes(report, f"copying {part}"))
            incoming.append(one)
            blobs[part], copies[part] = one.seal(), one.path
        if incoming:  # the sources may have changed meanwhile
            files = _read_again(files, copies)
        first, *others = blobs

        def keep() -> Blob:
            for one in incoming:
                one.keep()
            return blobs[first]

        layers = tuple(make_layer(MODEL, blobs[part], part) for part in others)
        whole = replace(draft, config=files.make_config(), part=first, kept=(*layers, *draft.kept))
        report(ProgressLine(status=f"found {files.family}"))
        return store_draft(store, whole, keep, report)


def order_paths(
    files: ImageFiles, first: Path, components: Mapping[ImagePart, Path]
) -> dict[ImagePart, Path]:
    """The paths of *files* by component, the one with the diffusion model first."""
    return {next(iter(files.files)): first, **components}


def _read_again(files: ImageFiles, copies: Mapping[ImagePart, Path]) -> ImageFiles:
    whole, *others = (read_tensor_file(path) for path in copies.values())
    found = check_image_files(whole, dict(zip(list(copies)[1:], others, strict=True)))
    if found is None or found.family is not files.family:
        raise ModelLoadError("a file changed while it was copied: create the model again")
    return found
