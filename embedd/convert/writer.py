"""Writes a checkpoint as GGUF, one tensor at a time."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from gguf.quants import quant_shape_to_byte_shape, quantize

from embedd.convert.checkpoint import Checkpoint
from embedd.convert.graph import Graph, TargetTensor, Value
from embedd.convert.tensors import Floats
from embedd.convert.weight_type import WeightType
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import Vocabulary
from embedd.types import Pooling

Kind = gguf.GGMLQuantizationType


_KINDS: Final[Mapping[WeightType, Kind]] = {
    WeightType.F32: Kind.F32,
    WeightType.F16: Kind.F16,
    WeightType.Q8_0: Kind.Q8_0,
}
_FILE_TYPES: Final[Mapping[WeightType, gguf.LlamaFileType]] = {
    WeightType.F32: gguf.LlamaFileType.ALL_F32,
    WeightType.F16: gguf.LlamaFileType.MOSTLY_F16,
    WeightType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}
_LARGEST: Final[Mapping[Kind, float]] = {
    Kind.F32: float(np.finfo(np.float32).max),
    Kind.F16: float(np.finfo(np.float16).max),
    Kind.Q8_0: 127 * float(np.finfo(np.float16).max),  # a block's scale is an f16
}
_POOLING_TYPES: Final[Mapping[Pooling, gguf.PoolingType]] = {
    Pooling.MEAN: gguf.PoolingType.MEAN,
    Pooling.CLS: gguf.PoolingType.CLS,
    Pooling.LAST: gguf.PoolingType.LAST,
    Pooling.RANK: gguf.PoolingType.RANK,
}
_SCORED: Final = frozenset({"t5", "llama"})  # kinds of vocabularies whose tokens have scores


def write_gguf(
    checkpoint: Checkpoint,
    target: Path,
    *,
    weights: WeightType,
    name: str | None,
    licence: str | None,
    report: Callable[[int, int], None],
) -> None:
    """Write *target*; call *report* with bytes done and bytes in total after each tensor.

    The same checkpoint and arguments give the same bytes.

    Raises:
        ConversionError: A value is not finite or too large for its type, or reading
            or writing failed. *target* is then incomplete.
    """
    writer = gguf.GGUFWriter(target, checkpoint.graph.architecture)
    _add_model(writer, checkpoint.graph, checkpoint.pooling)
    _add_vocabulary(writer, checkpoint.vocabulary, checkpoint.graph)
    writer.add_file_type(_FILE_TYPES[weights])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_name(name or "")
    writer.add_license(licence or "")
    kinds = [choose_kind(tensor, weights) for tensor in checkpoint.tensors]
    total = 0
    for tensor, kind in zip(checkpoint.tensors, kinds, strict=True):
        total += _add_tensor_info(writer, tensor, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        done = 0
        for tensor, kind in zip(checkpoint.tensors, kinds, strict=True):
            values = tensor.source.read()
            if tensor.added:
                values = values.astype(np.float32) + np.float32(tensor.added)
            data = to_kind(values, kind, name=tensor.source.name)
            writer.write_tensor_data(data)
            done += data.nbytes
            report(done, total)
    except OSError as error:
        raise ConversionError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        writer.close()


def choose_kind(tensor: TargetTensor, weights: WeightType) -> Kind:
    """The type to store a tensor in: f32 if exact, f16 if its rows do not fit q8_0."""
    if tensor.exact:
        return Kind.F32
    kind = _KINDS[weights]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    return Kind.F16 if tensor.source.shape[-1] % block else kind


def to_kind(array: Floats, kind: Kind, *, name: str) -> Floats:
    """*array* in the representation of *kind*.

    Raises:
        ConversionError: A value is not finite, or larger than *kind* can hold.
    """
    largest = float(np.abs(array).max())
    if not largest <= _LARGEST[kind]:  # also true of NaN
        raise ConversionError(
            f"tensor {name!r} has the value {largest:g}, {kind.name} holds up to "
            f"{_LARGEST[kind]:g}: convert to f32, or repair the checkpoint"
        )
    return quantize(array.astype(np.float32, copy=False), kind)


def _add_model(writer: gguf.GGUFWriter, graph: Graph, pooling: Pooling) -> None:
    for key, value in graph.values.items():
        _add_value(writer, f"{graph.architecture}.{key}", value)
    writer.add_pooling_type(_POOLING_TYPES[pooling])
    if graph.labels:
        writer.add_classifier_output_labels(graph.labels)


def _add_value(writer: gguf.GGUFWriter, key: str, value: Value | None) -> None:
    """Add *value* as the type that llama.cpp reads; None adds nothing."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, graph: Graph) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types.tolist())
    if vocabulary.model in _SCORED:
        writer.add_token_scores(vocabulary.scores.tolist())
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.charsmap:
        writer.add_precompiled_charsmap(vocabulary.charsmap)
    if graph.token_types is not None:
        writer.add_token_type_count(graph.token_types)
    values: dict[str, Value | None] = {
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "seperator_token_id": vocabulary.sep,  # misspelt in the format itself
        "unknown_token_id": vocabulary.unk,
        "padding_token_id": vocabulary.pad,
        "mask_token_id": vocabulary.mask,
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "add_sep_token": vocabulary.add_sep,
        "normalizer.lowercase": vocabulary.lowercase,
        "normalizer.strip_accents": vocabulary.strip_accents,
    }
    if vocabulary.model in _SCORED:
        values["add_space_prefix"] = vocabulary.add_space_prefix
        values["remove_extra_whitespaces"] = vocabulary.remove_extra_whitespaces
    for key, value in values.items():
        _add_value(writer, f"tokenizer.ggml.{key}", value)


def _add_tensor_info(writer: gguf.GGUFWriter, tensor: TargetTensor, kind: Kind) -> int:
    """Add a tensor's name, shape and type to the header; returns the bytes of its data."""
    block, width = gguf.GGML_QUANT_SIZES[kind]
    elements = int(np.prod(tensor.source.shape, dtype=np.int64))
    size = elements // block * width
    if kind is Kind.Q8_0:
        shape = quant_shape_to_byte_shape(tensor.source.shape, kind)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), size, kind)
    else:
        writer.add_tensor_info(tensor.name, tensor.source.shape, np.dtype(np.float32), size, kind)
    return size
