"""Writes a BERT checkpoint as GGUF, one tensor at a time."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from gguf.quants import quant_shape_to_byte_shape, quantize

from embedd.convert.bert import BertConfig, TargetTensor
from embedd.convert.checkpoint import Checkpoint
from embedd.convert.tensors import Floats
from embedd.convert.tokenizer import Vocabulary
from embedd.errors import ConversionError
from embedd.types import Pooling

Kind = gguf.GGMLQuantizationType


class WeightType(StrEnum):
    """Type of the large matrices; biases, norms and position embeddings stay f32."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"


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
    writer = gguf.GGUFWriter(target, "bert")
    _add_model(writer, checkpoint.config, checkpoint.pooling)
    _add_vocabulary(writer, checkpoint.vocabulary, checkpoint.config)
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
            data = to_kind(tensor.source.read(), kind, name=tensor.source.name)
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


def _add_model(writer: gguf.GGUFWriter, config: BertConfig, pooling: Pooling) -> None:
    writer.add_block_count(config.block_count)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.embedding_length)
    writer.add_feed_forward_length(config.feed_forward_length)
    writer.add_head_count(config.head_count)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(_POOLING_TYPES[pooling])
    if config.labels:
        writer.add_classifier_output_labels(config.labels)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, config: BertConfig) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_type_count(config.token_types)
    writer.add_bos_token_id(vocabulary.cls)
    writer.add_eos_token_id(vocabulary.sep)
    writer.add_sep_token_id(vocabulary.sep)
    writer.add_unk_token_id(vocabulary.unk)
    writer.add_pad_token_id(vocabulary.pad)
    writer.add_mask_token_id(vocabulary.mask)
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", vocabulary.lowercase)
    if vocabulary.strip_accents is not None:
        writer.add_bool("tokenizer.ggml.normalizer.strip_accents", vocabulary.strip_accents)


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
