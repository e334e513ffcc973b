"""The header of a GGUF: its facts from the first bytes, without the elements of arrays.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from embedd.errors import ModelLoadError
from embedd.exhaustion import to_file_error
from embedd.gguf.reader import MAX_KEY_BYTES, Reader, Scalar, check_limit, open_regular, value_type
from embedd.gguf.types import ARRAY, FILE_TYPES, STRING, TENSOR_TYPES
from embedd.types import Pooling

MAX_ENTRIES: Final = 65_536  # keys, and tensors
MAX_TENSOR_NAME_BYTES: Final = 64  # the format's own limit
MAX_IMAGE_TENSOR_NAME_BYTES: Final = 127  # of stable-diffusion.cpp, which compiles ggml so
MAX_DIMENSIONS: Final = 4  # GGML_MAX_DIMS
MAX_ELEMENTS: Final = (1 << 63) - 1  # ggml counts in int64
# fmt: off
ENCODERS: Final = frozenset({
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed",
    "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "t5encoder",
})
# fmt: on
POOLINGS: Final = dict(enumerate((Pooling.MEAN, Pooling.CLS, Pooling.LAST, Pooling.RANK), start=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """A tensor: shape as in the file (row length first), type (``F16`` …), place of its data."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int = 0  # in bytes from `GgufFacts.data_start`


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """The contents of a GGUF's header. Only JSON types, so that they can be stored.

    Args:
        version: Of the format: 2 or 3.
        metadata: All keys with scalar values, in the order of the file.
        arrays: Keys with array values → length; the elements are skipped.
        array_types: The same keys → type of the elements (``string``, ``uint8`` …).
        size: Bytes of the header; the data begin at the next multiple of the alignment.
    """

    version: int
    metadata: Mapping[str, Scalar]
    arrays: Mapping[str, int]
    array_types: Mapping[str, str]
    tensors: tuple[TensorFacts, ...]
    size: int = 0

    @property
    def data_start(self) -> int:
        """Position of the tensors' data; the alignment must be valid."""
        alignment = int(self.metadata.get("general.alignment", 32))
        return -(-self.size // alignment) * alignment

    @property
    def architecture(self) -> str:
        """``general.architecture``: the prefix of most other keys."""
        return str(self.metadata["general.architecture"])

    @property
    def context_length(self) -> int | None:
        """Tokens of the longest sequence that the model was trained for."""
        return self._own_count("context_length")

    @property
    def embedding_length(self) -> int | None:
        """Width of the hidden state."""
        return self._own_count("embedding_length")

    @property
    def vector_length(self) -> int | None:
        """Width of a vector: that of the hidden state, unless a dense layer follows."""
        return self._own_count("embedding_length_out") or self.embedding_length

    @property
    def feed_forward_length(self) -> int | None:
        """Width of the feed-forward network."""
        return self._own_count("feed_forward_length")

    @property
    def vocabulary_size(self) -> int | None:
        """Number of token ids."""
        return self.arrays.get("tokenizer.ggml.tokens") or self._own_count("vocab_size")

    @property
    def pooling(self) -> Pooling | None:
        """The pooling that the file declares; None if it declares none, or 0."""
        return POOLINGS.get(self._own_count("pooling_type") or 0)

    @property
    def parameter_count(self) -> int:
        """Number of elements in all tensors of this file."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def parameter_size(self) -> str:
        """`parameter_count` as Ollama prints it: ``1.5B``, ``22.57M``, ``334K``."""
        return format_parameter_count(self.parameter_count)

    @property
    def quantization(self) -> str:
        """Name of ``general.file_type``: ``F16``, ``Q4_K_M`` …, else ``unknown``."""
        kind = self.metadata.get("general.file_type")
        return FILE_TYPES.get(kind, "unknown") if type(kind) is int else "unknown"

    @property
    def is_encoder(self) -> bool:
        """Whether the architecture only embeds: its tokens see those after them."""
        return self.architecture in ENCODERS

    @property
    def label_count(self) -> int:
        """Number of names that the file has for a reranker's scores; 0 if it names none."""
        return self.arrays.get(f"{self.architecture}.classifier.output_labels", 0)

    @property
    def has_score_head(self) -> bool:
        """Whether the file has the tensors that compute a reranker's scores."""
        return not {"cls.weight", "cls.output.weight"}.isdisjoint(self._tensor_names())

    @property
    def is_reranker(self) -> bool:
        """Whether the file declares rank pooling, or has a score head and declares nothing."""
        return self.pooling is Pooling.RANK or (self.pooling is None and self.has_score_head)

    @property
    def normalizes_legacy(self) -> bool:
        """Whether Ollama's old route normalises this model's vectors to length 1."""
        if self._own("pooling_type") is None:
            return True
        declared = self._own("normalize_embeddings")
        if self.architecture == "bert":
            return self.metadata.get("tokenizer.ggml.model") == "bert" and declared is not False
        return self.architecture not in {"nomic-bert", "nomic-bert-moe"} or declared is True

    @property
    def foreign_package(self) -> str | None:
        """Why only Ollama's own loader can load the file; None for all other files."""
        if self.architecture == "gemma3" and "dense.0.weight" in self._tensor_names():
            return "architecture gemma3 with tensor dense.0.weight: Ollama's own embeddinggemma"
        if self.array_types.get("tokenizer.ggml.precompiled_charsmap") == "string":
            return "precompiled_charsmap is an array of strings, which only Ollama reads"
        return None

    def _tensor_names(self) -> set[str]:
        return {tensor.name for tensor in self.tensors}

    def _own(self, key: str) -> Scalar | None:
        return self.metadata.get(f"{self.architecture}.{key}")

    def _own_count(self, key: str) -> int | None:
        value = self._own(key)
        return value if type(value) is int and value > 0 else None


def format_parameter_count(count: int) -> str:
    """*count* as Ollama prints it: ``1.5B``, ``22.57M``, ``334K``."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.{0 if count % 1_000_000_000 == 0 else 1}f}B"
    if count >= 1_000_000:
        return f"{count / 1e6:.{0 if count % 1_000_000 == 0 else 2}f}M"
    return f"{count / 1e3:.0f}K" if count >= 1_000 else str(count)


def read_header_file(path: Path) -> GgufFacts:
    """Facts of the GGUF at *path*; checks that the data of all tensors lie within the file.

    Raises:
        ModelLoadError: As `read_header`, or the file cannot be read; names the file.
    """
    try:
        with open_regular(path) as stream:
            return read_header(stream, size=path.stat().st_size)
    except OSError as error:
        what = f"{path} cannot be read"
        raise (
            to_file_error(error, what) or ModelLoadError(f"{what}: {error.strerror or error}")
        ) from error
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from error


def read_header(
    stream: BinaryIO, *, size: int | None = None, of_image_model: bool = False
) -> GgufFacts:
    """Facts of the GGUF at the beginning of *stream*; reads up to 1 MiB beyond the header.

    Args:
        stream: Needs only a blocking ``read``, and no ``seek``: the beginning of a
            download is enough.
        size: Bytes of the whole file, if known; the data of all tensors must lie within.
        of_image_model: Whether the file need not have an architecture, as those written by
            stable-diffusion.cpp, which have longer names too.

    Raises:
        ModelLoadError: Not a GGUF, truncated, a version or byte order other than
            2 or 3 little-endian, or a number beyond its limit.
    """
    source = Reader(stream)
    version, tensor_count, pair_count = read_preamble(source)
    metadata, lengths, types = _read_pairs(source, pair_count)
    architecture, part = metadata.get("general.architecture"), metadata.get("split.no")
    is_complete = isinstance(architecture, str) and architecture
    if not (part or is_complete or of_image_model):
        raise ModelLoadError("the GGUF has no general.architecture: it does not contain a model")
    longest = MAX_IMAGE_TENSOR_NAME_BYTES if of_image_model else MAX_TENSOR_NAME_BYTES
    placed = [_read_tensor(source, longest) for _ in range(tensor_count)]
    tensors = tuple(tensor for tensor, _ in placed)
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ModelLoadError("the GGUF has two tensors of the same name")
    facts = GgufFacts(
        version=version,
        metadata=metadata,
        arrays=lengths,
        array_types=types,
        tensors=tensors,
        size=source.position,
    )
    if size is not None:
        _check_data(facts, [end for _, end in placed], size)
    return facts


def read_preamble(source: Reader) -> tuple[int, int, int]:
    """Version, number of tensors, number of key-value pairs."""
    magic = source.take(4)
    if magic != b"GGUF":
        raise ModelLoadError(f"not a GGUF file: it begins with {magic!r} instead of b'GGUF'")
    version = source.u32()
    if version & 0xFFFF == 0:
        raise ModelLoadError("the GGUF is big-endian: only little-endian files are supported")
    if version not in {2, 3}:
        raise ModelLoadError(f"the GGUF has version {version}: only 2 and 3 are supported")
    tensor_count = check_limit(source.u64(), MAX_ENTRIES, "tensors")
    return version, tensor_count, check_limit(source.u64(), MAX_ENTRIES, "keys")


def _read_pairs(
    source: Reader, count: int
) -> tuple[dict[str, Scalar], dict[str, int], dict[str, str]]:
    """Scalars, and of each array its length and the type of its elements."""
    metadata: dict[str, Scalar] = {}
    lengths: dict[str, int] = {}
    types: dict[str, str] = {}
    for _ in range(count):
        key = source.text(MAX_KEY_BYTES, "bytes in a key")
        if key in metadata or key in lengths:
            raise ModelLoadError(f"the GGUF has the key {key!r} twice")
        number = source.u32()
        if number == ARRAY:
            kind, lengths[key] = source.array_head(key)
            source.skip_elements(kind, lengths[key], key)
            types[key] = "string" if kind == STRING else value_type(kind, key)[0]
        else:
            metadata[key] = source.scalar(number, key)
    return metadata, lengths, types


def _read_tensor(source: Reader, longest: int) -> tuple[TensorFacts, int]:
    """A tensor, and the end of its data in bytes from the beginning of all data.

    An unknown type is named by its number, and its size counts as 0.
    """
    name = source.text(longest, "bytes in a tensor's name")
    rank = check_limit(source.u32(), MAX_DIMENSIONS, f"dimensions of tensor {name!r}")
    shape = tuple(source.u64() for _ in range(rank))
    elements = check_limit(math.prod(shape), MAX_ELEMENTS, f"elements in tensor {name!r}")
    number = source.u32()
    kind, block, width = TENSOR_TYPES.get(number, (f"type {number}", 1, 0))
    if rank and shape[0] % block:
        raise ModelLoadError(
            f"tensor {name!r} has rows of {shape[0]} elements, {kind} needs a multiple of {block}"
        )
    offset = source.u64()
    tensor = TensorFacts(name=name, shape=shape, type=kind, offset=offset)
    return tensor, offset + elements // block * width


def _check_data(facts: GgufFacts, ends: list[int], size: int) -> None:
    """Check that the data of all tensors, which end at *ends*, lie within *size* bytes."""
    alignment = facts.metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise ModelLoadError(f"general.alignment is {alignment!r}, it must be a power of two")
    for tensor, end in zip(facts.tensors, ends, strict=True):
        if facts.data_start + end > size:
            raise ModelLoadError(
                f"the GGUF is truncated: it ends at byte {size}, "
                f"the data of tensor {tensor.name!r} at byte {facts.data_start + end}"
            )
