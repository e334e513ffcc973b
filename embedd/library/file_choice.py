"""Choice of the GGUF in a repository that a tag stands for."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from embedd.names import DEFAULT_TAG, FOLDER_MARK
from embedd.store.remote import RemoteFile

_QUANTIZATION: Final = re.compile(
    r"(?<![a-z0-9])(i?q\d_(?:k(?:_[a-z]+)?|[a-z]+|\d)|tq\d_\d|mxfp4|nvfp4|bf16|fp?16|fp?32)"
    r"(?![a-z0-9_])"
)
_OTHER_NAMES: Final = {"fp16": "f16", "fp32": "f32"}
# Encoders are small: fidelity first.
_PREFERRED: Final = ("q8_0", "f16", "bf16", "f32")
_AT_LEAST_Q4_K_M: Final = re.compile(r"q4_k_(?:m|l|xl)|q[56]_.*")
_PART_OF_FOLDER: Final = re.compile(r".*/|(model|adapter|diffusion_pytorch|pytorch)[-_.]")
_NO_MODELS: Final = ("mmproj", "imatrix")
_PART: Final = re.compile(r"-\d{5}(-of-(\d{5})\.gguf)$", re.IGNORECASE)


def choose_file(files: Iterable[RemoteFile], tag: str) -> RemoteFile | None:
    """The GGUF that *tag* stands for: a file name, or a quantisation in it, in any letter case.

    Where no file is named so, a folder may be: ``Q8_0/model.gguf``. A repository without a
    GGUF may hold an image model as a checkpoint of safetensors.

    ``latest`` is the only GGUF, else Q8_0, F16, BF16 or F32, else the smallest with at
    least Q4_K_M, else the largest.
    """
    files = list(files)
    models = [file for file in files if _is_model(file.path)]
    models = models or [file for file in files if _is_checkpoint(file.path)]
    wanted = tag.lower()
    whole = [file for file in models if wanted in {file.path.lower(), _flat(file.path)}]
    named = whole or [file for file in models if wanted == _base(file.path)]
    if named:
        return named[0]
    if wanted == DEFAULT_TAG:
        return _choose_latest(models)
    return _first([file for file in models if _is_named(_base(file.path), wanted)]) or _first(
        [file for file in models if _is_in_folder(file.path, wanted)]
    )


def name_parts(path: str) -> list[str]:
    """All files of the model that *path* belongs to, in order; only *path* if it is not split."""
    match = _PART.search(path)
    if match is None:
        return [path]
    start, end = path[: match.start()], match[1]
    return [f"{start}-{number:05d}{end}" for number in range(1, int(match[2]) + 1)]


def _choose_latest(models: Sequence[RemoteFile]) -> RemoteFile | None:
    if len(models) == 1:
        return models[0]
    by_kind: dict[str, list[RemoteFile]] = {}
    for file in models:
        kind = _quantization(_base(file.path)) or _quantization(_folders(file.path))
        by_kind.setdefault(kind, []).append(file)
    for kind in _PREFERRED:
        if kind in by_kind:
            return _first(by_kind[kind])
    good = [file for kind in by_kind if _AT_LEAST_Q4_K_M.fullmatch(kind) for file in by_kind[kind]]
    if good:
        return min(good, key=lambda file: (file.size or 0, file.path))
    return max(models, key=lambda file: (file.size or 0, file.path), default=None)


def _first(files: Sequence[RemoteFile]) -> RemoteFile | None:
    """The best of several files: least deep, then shortest, then first by name."""
    return min(
        files, key=lambda file: (file.path.count("/"), len(file.path), file.path), default=None
    )


def _is_model(path: str) -> bool:
    base = _base(path)
    return base.endswith(".gguf") and not any(word in base for word in _NO_MODELS)


def _is_checkpoint(path: str) -> bool:
    """Whether the file may be a whole image model: it is not a part of a folder of files."""
    return path.lower().endswith(".safetensors") and not _PART_OF_FOLDER.match(path.lower())


def _is_named(base: str, wanted: str) -> bool:
    if _quantization(base) == _OTHER_NAMES.get(wanted, wanted):
        return True
    return re.search(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9_])", base) is not None


def _is_in_folder(path: str, wanted: str) -> bool:
    return any(_is_named(folder, wanted) for folder in _folders(path).split("/") if folder)


def _quantization(base: str) -> str:
    """The last quantisation in a file name; empty if there is none."""
    found = _QUANTIZATION.findall(base)
    return _OTHER_NAMES.get(found[-1], found[-1]) if found else ""


def _flat(path: str) -> str:
    """The path as a tag has it, which cannot have a slash."""
    return path.replace("/", FOLDER_MARK).lower()


def _folders(path: str) -> str:
    return path.rpartition("/")[0].lower()


def _base(path: str) -> str:
    return path.rpartition("/")[2].lower()
