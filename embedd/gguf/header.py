"""Facts of a GGUF from its first bytes: streaming, bounded, skips arrays.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file is not trusted:
every count and length is checked against a limit before anything is read or kept.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from embedd.errors import ModelLoadError
from embedd.gguf.types import FILE_TYPES, TENSOR_TYPES
from embedd.types import Pooling

Scalar: TypeAlias = str | int | float | bool

MAX_HEADER_BYTES: Final = 128 << 20  # a vocabulary of 260,000 with merges takes 16 MB
MAX_STRING_BYTES: Final = 4 << 20  # chat templates and licence texts
MAX_KEY_BYTES: Final = 65_535  # the format's own limit
MAX_ENTRIES: Final = 65_536  # keys, and tensors
MAX_TENSOR_NAME_BYTES: Final = 64  # the format's own limit
MAX_DIMENSIONS: Final = 4  # GGML_MAX_DIMS
MAX_ELEMENTS: Final = (1 << 63) - 1  # ggml counts in int64
MAX_ARRAY_LENGTH: Final = 1 << 24

_CHUNK: Final = 1 << 20
_U64: Final = struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
# fmt: off
_VALUES: Final[Mapping[int, tuple[str, str]]] = {
    0: ("uint8", "<B"), 1: ("int8", "<b"), 2: ("uint16", "<H"), 3: ("int16", "<h"),
    4: ("uint32", "<I"), 5: ("int32", "<i"), 6: ("float32", "<f"), 7: ("bool", "<?"),
    10: ("uint64", "<Q"), 11: ("int64", "<q"), 12: ("float64", "<d"),
}
ENCODERS: Final = frozenset({
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "t5encoder",
})
# fmt: on
POOLINGS: Final = dict(enumerate((Pooling.MEAN, Pooling.CLS, Pooling.LAST, Pooling.RANK), start=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """A tensor's name, shape as in the file (row length first), type (``F16`` …), data's place."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int = 0  # bytes from where the data of all tensors begin


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """What the header of a GGUF says. Only JSON types, so that it can be kept.

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
        """Where the data of all tensors begin, if the alignment is one."""
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
    def block_count(self) -> int | None:
        """Layers."""
        return self._own_count("block_count")

    @property
    def head_count(self) -> int | None:
        """Attention heads; None also where the number differs by layer."""
        return self._own_count("attention.head_count")

    @property
    def vocabulary_size(self) -> int | None:
        """Number of token ids."""
        return self.arrays.get("tokenizer.ggml.tokens") or self._own_count("vocab_size")

    @property
    def pooling(self) -> Pooling | None:
        """The pooling that the file asks for; 0 says as little as a missing key."""
        return POOLINGS.get(self._own_count("pooling_type") or 0)

    @property
    def parameter_count(self) -> int:
        """Numbers in all tensors of this file."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def parameter_size(self) -> str:
        """`parameter_count` as Ollama prints it: ``1.5B``, ``22.57M``, ``334K``."""
        count = self.parameter_count
        if count >= 1_000_000_000:
            return f"{count / 1e9:.{0 if count % 1_000_000_000 == 0 else 1}f}B"
        if count >= 1_000_000:
            return f"{count / 1e6:.{0 if count % 1_000_000 == 0 else 2}f}M"
        return f"{count / 1e3:.0f}K" if count >= 1_000 else str(count)

    @property
    def quantization(self) -> str:
        """Name of ``general.file_type``: ``F16``, ``Q4_K_M`` …, else ``unknown``."""
        kind = self.metadata.get("general.file_type")
        return FILE_TYPES.get(kind, "unknown") if type(kind) is int else "unknown"

    @property
    def is_encoder(self) -> bool:
        """Whether the architecture is encoder-only."""
        return self.architecture in ENCODERS

    @property
    def is_causal(self) -> bool:
        """Whether a token attends to earlier ones only."""
        declared = self._own("attention.causal")
        return declared if isinstance(declared, bool) else not self.is_encoder

    @property
    def has_score_head(self) -> bool:
        """Whether there are the tensors without which a reranker's scores mean nothing."""
        return not {"cls.weight", "cls.output.weight"}.isdisjoint(self._tensor_names())

    @property
    def is_reranker(self) -> bool:
        """Whether the file asks for rank pooling, or has a score head and asks for nothing."""
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
        """Why only Ollama's own loader can use the file; None for all other files."""
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


def read_header_file(path: Path) -> GgufFacts:
    """Facts of the GGUF at *path*, whose tensor data are checked to lie within it.

    Raises:
        ModelLoadError: As `read_header`, and if the file cannot be read; names the file.
    """
    try:
        with path.open("rb") as stream:
            return read_header(stream, size=path.stat().st_size)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror or error}") from error
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from error


def read_header(stream: BinaryIO, *, size: int | None = None) -> GgufFacts:
    """Facts of the GGUF that *stream* begins with; reads up to 1 MiB beyond the header.

    Args:
        stream: Anything with a blocking ``read``; it is not sought in, so the first
            bytes of a download will do.
        size: Bytes of the whole file, if known: tensor data must lie within them.

    Raises:
        ModelLoadError: Not a GGUF, truncated, a version or byte order other than
            2 or 3 little-endian, or a number beyond its limit.
    """
    source = _Source(stream)
    version, tensor_count, pair_count = _read_preamble(source)
    metadata, lengths, types = _read_pairs(source, pair_count)
    architecture, part = metadata.get("general.architecture"), metadata.get("split.no")
    if not part and not (isinstance(architecture, str) and architecture):
        raise ModelLoadError("the GGUF has no general.architecture: it holds no model")
    placed = [_read_tensor(source) for _ in range(tensor_count)]
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


class _Source:
    """A stream that says how far it was read and never holds more than one piece of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._base = 0  # position in the file of the buffer's first byte

    @property
    def position(self) -> int:
        return self._base + self._at

    def take(self, count: int) -> bytes:
        """The next *count* bytes; *count* is a number that the caller has bounded."""
        self._need(count)
        start, self._at = self._at, self._at + count
        return self._buffer[start : self._at]

    def skip(self, count: int) -> None:
        _check_limit(self.position + count, MAX_HEADER_BYTES, "bytes of header")
        while (left := len(self._buffer) - self._at) < count:
            count -= left
            self._at += left
            self._need(1)
        self._at += count

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self, limit: int, what: str) -> str:
        return self.take(_check_limit(self.u64(), limit, what)).decode(errors="replace")

    def skip_strings(self, count: int) -> None:
        while count:
            self._need(8)
            buffer, at, last = self._buffer, self._at, len(self._buffer) - 8
            # Without calls: a vocabulary and its merges are up to 800,000 strings.
            while count and at <= last:
                at += 8 + _U64.unpack_from(buffer, at)[0]
                count -= 1
            self._at = min(at, len(buffer))
            self.skip(at - self._at)

    def _need(self, count: int) -> None:
        left = len(self._buffer) - self._at
        if left >= count:
            return
        _check_limit(self.position + count, MAX_HEADER_BYTES, "bytes of header")
        pieces = [self._buffer[self._at :]]
        while left < count:
            piece = self._stream.read(_CHUNK)
            if not piece:
                end = self.position + left
                raise ModelLoadError(f"the GGUF is truncated: it ends at byte {end}, in its header")
            pieces.append(piece)
            left += len(piece)
        self._base, self._at = self.position, 0
        self._buffer = b"".join(pieces)


def _check_limit(value: int, limit: int, what: str) -> int:
    if value > limit:
        raise ModelLoadError(
            f"not a usable GGUF: {value} {what}, at most {limit} are accepted", limit=limit
        )
    return value


def _read_preamble(source: _Source) -> tuple[int, int, int]:
    """Version, number of tensors, number of key-value pairs."""
    magic = source.take(4)
    if magic != b"GGUF":
        raise ModelLoadError(f"not a GGUF file: it begins with {magic!r} instead of b'GGUF'")
    version = source.u32()
    if version & 0xFFFF == 0:
        raise ModelLoadError("the GGUF is big-endian: only little-endian files are supported")
    if version not in {2, 3}:
        raise ModelLoadError(f"the GGUF has version {version}: only 2 and 3 are supported")
    tensor_count = _check_limit(source.u64(), MAX_ENTRIES, "tensors")
    return version, tensor_count, _check_limit(source.u64(), MAX_ENTRIES, "keys")


def _read_pairs(
    source: _Source, count: int
) -> tuple[dict[str, Scalar], dict[str, int], dict[str, str]]:
    """Scalars, and of each array its length and the type of its elements."""
    metadata: dict[str, Scalar] = {}
    lengths: dict[str, int] = {}
    types: dict[str, str] = {}
    for _ in range(count):
        key = source.text(MAX_KEY_BYTES, "bytes in a key")
        if key in metadata or key in lengths:
            raise ModelLoadError(f"the GGUF has the key {key!r} twice")
        kind = source.u32()
        if kind == _ARRAY:
            types[key], lengths[key] = _skip_array(source, key)
        elif kind == _STRING:
            metadata[key] = source.text(MAX_STRING_BYTES, f"bytes in the value of {key!r}")
        else:
            packing = _value_type(kind, key)[1]
            metadata[key] = struct.unpack(packing, source.take(struct.calcsize(packing)))[0]
    return metadata, lengths, types


def _skip_array(source: _Source, key: str) -> tuple[str, int]:
    kind = source.u32()
    length = _check_limit(source.u64(), MAX_ARRAY_LENGTH, f"elements in {key!r}")
    if kind == _STRING:
        source.skip_strings(length)
        return "string", length
    name, packing = _value_type(kind, key)
    source.skip(length * struct.calcsize(packing))
    return name, length


def _value_type(kind: int, key: str) -> tuple[str, str]:
    if kind not in _VALUES:
        raise ModelLoadError(f"the GGUF's key {key!r} has the unsupported value type {kind}")
    return _VALUES[kind]


def _read_tensor(source: _Source) -> tuple[TensorFacts, int]:
    """A tensor and where its data end, in bytes from the beginning of all data.

    A type that is not known is named by its number, and its size is taken for 0.
    """
    name = source.text(MAX_TENSOR_NAME_BYTES, "bytes in a tensor's name")
    rank = _check_limit(source.u32(), MAX_DIMENSIONS, f"dimensions of tensor {name!r}")
    shape = tuple(source.u64() for _ in range(rank))
    elements = _check_limit(math.prod(shape), MAX_ELEMENTS, f"elements in tensor {name!r}")
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
    """Check that the data of all tensors, which end there, lie within *size*."""
    alignment = facts.metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise ModelLoadError(f"general.alignment is {alignment!r}, it must be a power of two")
    for tensor, end in zip(facts.tensors, ends, strict=True):
        if facts.data_start + end > size:
            raise ModelLoadError(
                f"the GGUF is truncated: it ends at byte {size}, "
                f"the data of tensor {tensor.name!r} at byte {facts.data_start + end}"
            )
