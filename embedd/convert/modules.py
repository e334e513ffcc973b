"""The modules of a sentence-transformers checkpoint: transformer, pooling, dense layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from embedd.convert.files import read_json, read_json_object
from embedd.convert.tensors import StoredTensor, read_checkpoint_index
from embedd.errors import ConversionError

MODULES: Final = "modules.json"
PACKAGE: Final = "sentence_transformers."  # types of other packages bring code of their own
# What a text goes through, in this order. Vectors are normalised when they are requested.
ORDER: Final = ("Transformer", "Pooling", "Dense", "Normalize")
IDENTITY: Final = "torch.nn.modules.linear.Identity"
ADAPTERS: Final = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseModule:
    """A matrix that pooled vectors are multiplied by.

    Args:
        name: Its folder within the checkpoint.
    """

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """The parts of a checkpoint.

    Args:
        transformer: Its folder.
        pooling: Its folder; None for a cross-encoder.
        dense: Folders of the Dense modules within *source*, in the order of computation.
        normalizes: Whether vectors are brought to length 1.
    """

    source: Path
    transformer: Path
    pooling: Path | None
    dense: tuple[str, ...]
    normalizes: bool


def read_modules(source: Path) -> Modules:
    """Read ``modules.json`` of *source*; without it the transformer lies in *source* itself.

    Raises:
        ConversionError: A module cannot be converted, or there is an adapter.
    """
    if not source.is_dir():
        raise ConversionError(f"{source} is not a folder: a checkpoint is one with config.json")
    path = source / MODULES
    listed = read_json(path) if path.is_file() else []
    if not isinstance(listed, list):
        raise ConversionError(f"{path} must hold a JSON list")
    found = [_to_module(module, source) for module in listed]
    for kind in ORDER:
        if kind != "Dense" and sum(one == kind for one, _ in found) > 1:
            raise ConversionError(f"{path} has two {kind} modules, only one can be converted")
    kinds = [kind for kind, _ in found]
    if kinds != sorted(kinds, key=ORDER.index):
        raise ConversionError(
            f"{path} has the modules {', '.join(kinds)}: only the order {', '.join(ORDER)} "
            "is converted"
        )
    folders = {kind: source / name for kind, name in found}
    modules = Modules(
        source=source,
        transformer=folders.get("Transformer", source),
        pooling=folders.get("Pooling"),
        dense=tuple(name for kind, name in found if kind == "Dense"),
        normalizes="Normalize" in folders,
    )
    for folder in (source, modules.transformer):
        for file in ADAPTERS:
            if (folder / file).exists():
                raise ConversionError(
                    f"{folder} has the adapter {file}: merge it into the weights "
                    "(merge_and_unload in peft), save the model, and convert that"
                )
    return modules


def read_dense_tensors(modules: Modules) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of the Dense modules, each name with its module's before it."""
    for folder in modules.dense:
        for name, tensor in read_checkpoint_index(modules.source / folder).items():
            yield f"{folder}.{name}", tensor


def read_dense(source: Path, name: str) -> DenseModule:
    """The Dense module in the folder *name* of *source*.

    Raises:
        ConversionError: It does more than to multiply by a matrix.
    """
    path = source / name / "config.json"
    options = read_json_object(path)
    if options.get("bias") is not False or options.get("activation_function") != IDENTITY:
        raise ConversionError(
            f"{path} has bias {options.get('bias')!r} and activation_function "
            f"{options.get('activation_function')!r}: only a matrix without bias and with "
            f"{IDENTITY} is converted"
        )
    sizes = [options.get(key) for key in ("in_features", "out_features")]
    if not all(type(size) is int and 0 < size < 2**31 for size in sizes):
        raise ConversionError(f"{path} has in_features and out_features {sizes!r}")
    inputs, outputs = (int(str(size)) for size in sizes)
    return DenseModule(name=name, inputs=inputs, outputs=outputs)


def _to_module(module: object, source: Path) -> tuple[str, str]:
    """A module's kind, which is the last word of its type, and its folder's name."""
    match module:
        case {"type": str(name), "path": str(path)}:
            inside = PurePosixPath(path)
        case _:
            raise ConversionError(f"{MODULES} of {source} has the entry {module!r}")
    if inside.is_absolute() or ".." in inside.parts:
        raise ConversionError(f"{MODULES} names the folder {path!r} outside the checkpoint")
    kind = name.rpartition(".")[2]
    if not name.startswith(PACKAGE) or kind not in ORDER:
        raise ConversionError(
            f"{source / MODULES} has the module {name!r}, which cannot be converted: only "
            f"{', '.join(ORDER)} of sentence_transformers are"
        )
    return kind, path
