"""A model on the hub before its download: its header, and the small files beside it."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar, cast

import msgspec

from embedd.components.tensor_file import TensorFile, read_tensors
from embedd.errors import ModelLoadError, UnsupportedError
from embedd.gguf.faults import find_fault
from embedd.gguf.header import GgufFacts, read_header
from embedd.library.architectures import ARCHITECTURES
from embedd.resolve import choose_pooling
from embedd.store.remote import RemoteBlob, Repository
from embedd.types import Pooling

if TYPE_CHECKING:
    from embedd.store.hub import Hub

_log = logging.getLogger(__name__)

_Header = TypeVar("_Header")

MAX_COMPANION_BYTES: Final = 1 << 20
POOLING_FILE: Final = "1_Pooling/config.json"
PROMPTS_FILE: Final = "config_sentence_transformers.json"
LICENSE_FILES: Final = ("LICENSE", "LICENSE.txt", "LICENSE.md")
# A small vocabulary ends within the first range; each further one is twice as large.
_FIRST_RANGE: Final = 256 << 10
_LARGEST_RANGE: Final = 8 << 20
_MODES: Final[Mapping[str, Pooling]] = {
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_lasttoken": Pooling.LAST,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Companions:
    """Pooling, prompts and licence from the files beside a GGUF."""

    pooling: Pooling | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    license: str = ""


class _HeaderStream:
    """The beginning of a remote file: bytes of a partial download, then range after range."""

    def __init__(self, hub: "Hub", blob: RemoteBlob, here: Path | None) -> None:
        self._hub = hub
        self._blob = blob
        self._here = here
        self._position = 0
        self._range = _FIRST_RANGE

    def read(self, size: int) -> bytes:
        """The next bytes; sometimes more or fewer than *size*."""
        data = self._read_here(size)
        if not data and self._position < self._blob.size:
            data = self._hub.read_range(self._blob, self._position, self._range)
            self._range = min(2 * self._range, _LARGEST_RANGE)
        self._position += len(data)
        return data

    def _read_here(self, size: int) -> bytes:
        if self._here is None:
            return b""
        with suppress(OSError), self._here.open("rb") as file:
            file.seek(self._position)
            return file.read(size)
        return b""


def read_remote_header(hub: "Hub", blob: RemoteBlob, here: Path) -> GgufFacts:
    """Facts of the GGUF *blob*, from its first bytes.

    Args:
        here: Path of the partial file of an earlier download, which need not exist.

    Raises:
        ModelLoadError: It is not a usable GGUF; names the file.
        PullError: It cannot be read.
    """
    return _read_beginning(hub, blob, here, read_header)


def read_remote_tensors(hub: "Hub", blob: RemoteBlob, here: Path) -> TensorFile:
    """The tensors of a file of an image model; as `read_remote_header`."""
    return _read_beginning(hub, blob, here, read_tensors)


def _read_beginning(
    hub: "Hub", blob: RemoteBlob, here: Path, read: Callable[..., _Header]
) -> _Header:
    if here.exists():
        # These bytes are not verified yet: if they are not a header, read it from the hub.
        with suppress(ModelLoadError):
            return read(_open_stream(hub, blob, here), size=blob.size)
    try:
        return read(_open_stream(hub, blob, None), size=blob.size)
    except ModelLoadError as error:
        raise ModelLoadError(f"{where(blob)} cannot be used: {error}") from error


def _open_stream(hub: "Hub", blob: RemoteBlob, here: Path | None) -> BinaryIO:
    return cast("BinaryIO", _HeaderStream(hub, blob, here))


def check_usable(facts: GgufFacts, pooling: Pooling | None, blob: RemoteBlob) -> None:
    """Refuse a model that cannot be used for embeddings.

    Args:
        pooling: The pooling of its recipe or of the files beside it, if there is one.

    Raises:
        ModelLoadError: llama.cpp cannot load it.
        UnsupportedError: It is a language model.
    """
    if facts.foreign_package is not None:
        raise ModelLoadError(
            f"{where(blob)} cannot be loaded: {facts.foreign_package}; "
            "choose a file that llama.cpp's own converter made"
        )
    if facts.architecture not in ARCHITECTURES:
        raise ModelLoadError(
            f"{where(blob)} cannot be loaded: its architecture {facts.architecture} is not "
            "known to the installed llama.cpp; choose another model, or install a newer embedd"
        )
    if facts.context_length is None:
        raise ModelLoadError(
            f"{where(blob)} cannot be loaded: it has no {facts.architecture}.context_length; "
            "choose another conversion of the model"
        )
    chosen = choose_pooling(pooling, facts)
    # The first of several parts does not have all tensors.
    fault = None if "split.count" in facts.metadata else find_fault(facts, chosen)
    if fault is not None:
        raise ModelLoadError(f"{where(blob)} was not pulled: {fault}")
    if chosen is None:
        raise UnsupportedError(
            f"{where(blob)} was not pulled: this model does not support embeddings, it is a "
            f"language model ({facts.architecture}) that names no pooling; choose an embedding "
            "model, or create one from the file with PARAMETER pooling"
        )


def read_companions(hub: "Hub", repository: Repository) -> Companions:
    """Read the small files of *repository*; those that cannot be parsed are skipped.

    Raises:
        PullError: They cannot be read.
    """
    return Companions(
        pooling=_pooling_of(_read_object(hub, repository, POOLING_FILE)),
        prompts=_prompts_of(_read_object(hub, repository, PROMPTS_FILE)),
        license=_read_license(hub, repository) or repository.license,
    )


def _read_object(hub: "Hub", repository: Repository, path: str) -> dict[str, object]:
    if not repository.has(path):
        return {}
    data = hub.read(repository, path, MAX_COMPANION_BYTES)
    try:
        return msgspec.json.decode(data, type=dict[str, object])
    except msgspec.DecodeError as error:
        extra = {"repository": repository.name, "file": path, "cause": str(error)}
        _log.warning("file of the repository skipped: not a JSON object", extra=extra)
        return {}


def _pooling_of(options: Mapping[str, object]) -> Pooling | None:
    """The pooling mode that is set; None if several are, which llama.cpp cannot combine."""
    asked = [key for key, on in options.items() if key.startswith("pooling_mode_") and on is True]
    return _MODES.get(asked[0]) if len(asked) == 1 else None


def _prompts_of(config: Mapping[str, object]) -> dict[str, str]:
    prompts = config.get("prompts")
    if not isinstance(prompts, dict):
        return {}
    return {name: text for name, text in prompts.items() if isinstance(text, str) and text}


def _read_license(hub: "Hub", repository: Repository) -> str:
    for path in LICENSE_FILES:
        if repository.has(path):
            data = hub.read(repository, path, MAX_COMPANION_BYTES)
            return data.decode(errors="replace").strip()
    return ""


def where(blob: RemoteBlob) -> str:
    """The file and its repository, for messages."""
    return f"{blob.path} of {blob.repository}"
