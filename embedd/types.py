"""Types that every layer uses: requests, results, and facts about a model. No behaviour.

Those that are made for every request are structs of msgspec: a frozen dataclass takes ten times
as long to make, and more to replace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = npt.NDArray[np.int32]  # (tokens,)
Offsets: TypeAlias = npt.NDArray[np.int32]  # (tokens, 2): first character and the one after
Located: TypeAlias = tuple[TokenIds, Offsets]  # tokens of a text, and where in it they stand
ClientIds: TypeAlias = npt.NDArray[np.int64]  # (tokens,), as sent, not yet checked
Vector: TypeAlias = npt.NDArray[np.float32]  # (dimensions,)
Vectors: TypeAlias = npt.NDArray[np.float32]  # (inputs, dimensions)
RowNumbers: TypeAlias = npt.NDArray[np.int32]  # (inputs,): the row of each in a matrix
Labels: TypeAlias = tuple[str, ...]  # of a reranker's scores; "" is unnamed
Quantized: TypeAlias = npt.NDArray[np.int8] | npt.NDArray[np.uint8]  # (inputs, numbers or bytes)


class TokenPiece(NamedTuple):
    """The bytes of text that one token stands for, or the name of a special token."""

    text: bytes
    is_special: bool


class Pooling(StrEnum):
    """How the vectors of a sequence's tokens are combined into one."""

    NONE = "none"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


class Truncate(StrEnum):
    """Which part of an input that is too long is removed; ``error`` refuses the input."""

    END = "end"
    START = "start"
    MIDDLE = "middle"
    ERROR = "error"


class Normalize(StrEnum):
    """How vectors are normalised."""

    L2 = "l2"
    NONE = "none"
    LEGACY = "legacy"  # as Ollama's `/api/embeddings` does for this kind of model


class DType(StrEnum):
    """Type of the numbers of a vector, as in sentence-transformers' ``precision``."""

    FLOAT = "float"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"


class Encoding(StrEnum):
    """How a vector is written in JSON: as an array, or as base64 of its bytes."""

    LIST = "list"
    BASE64 = "base64"


class DimensionCheck(StrEnum):
    """How strictly a request's ``dimensions`` are checked."""

    LENIENT = "lenient"  # too many are ignored, as in Ollama
    STRICT = "strict"  # too many are refused; a size the model was not trained for: a warning
    MATRYOSHKA = "matryoshka"  # as strict, and refused for models without matryoshka sizes


class Priority(StrEnum):
    """Which requests are computed first; ``bulk`` yields to all others."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a request is to be computed.

    Args:
        deadline: When its client stops waiting, by ``time.perf_counter``; None if it does not.
    """

    deadline: float | None = None
    priority: Priority = Priority.INTERACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text of the model that is put before each input, by its name.

    ``query`` and ``document`` name the model's two prefixes, other names its own prompts.

    Args:
        is_optional: Whether a model without this prompt embeds the input as it is, even if
            it has other prompts.
    """

    name: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFormat:
    """One form in which every vector is sent.

    Args:
        key: The client's name for it; empty if the request named no form.
    """

    key: str = ""
    dtype: DType = DType.FLOAT
    encoding: Encoding = Encoding.LIST


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How texts are cut into chunks that are embedded one by one.

    Args:
        tokens: Most tokens of a chunk, without special tokens and the prompt; None is what the
            model takes.
        overlap: Most tokens that a chunk has in common with the one before it.
        pool: Whether a text gets one vector, the mean of its chunks', each with the weight of
            its tokens.
        max_chunks: Most chunks of all texts together.
    """

    tokens: int | None = None
    overlap: int = 0
    pool: bool = False
    max_chunks: int


# One sequence of texts and token ids; special tokens are added only to a text at its start.
MixedInput: TypeAlias = tuple[str | ClientIds, ...]
Input: TypeAlias = str | ClientIds | MixedInput


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs to embed, in the terms of no dialect.

    Args:
        model: Its name; empty where the client named none.
        max_tokens: Limit of every input, if lower than the model's own.
        chunk: Cut texts into chunks; nothing is truncated then.
        normalize: A number is a p-norm, see `embedd.vectors.scale_to_p_norm`.
        per_token: Return a vector for each token instead of one for each input.
        store: Whether vectors may be read from the cache and written to it.
        keep_alive: Seconds, ``math.inf`` for ever; None leaves the model's as it is.
        options: Runner options as the client sent them; checked once the model is known.
    """

    model: str
    inputs: Sequence[Input]
    truncate: Truncate = Truncate.END
    max_tokens: int | None = None
    chunk: Chunking | None = None
    dimensions: int | None = None
    dimension_check: DimensionCheck = DimensionCheck.LENIENT
    normalize: Normalize | int = Normalize.L2
    formats: Sequence[VectorFormat] = (VectorFormat(),)
    prompt: Prompt | None = None
    per_token: bool = False
    store: bool = True
    schedule: Schedule = Schedule()
    keep_alive: float | None = None
    options: Mapping[str, object] = msgspec.field(default_factory=dict)


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Documents to order by how well they answer a query.

    Args:
        top_n: How many of them to return; None returns all.
        max_tokens: Limit of the query with a document, if lower than the model's own.
        max_tokens_per_doc: Limit of every document, its further tokens are cut off.
        raw_scores: Return the model's logits instead of scores between 0 and 1.
        store: As in `EmbedRequest`.
    """

    model: str
    query: str
    documents: Sequence[str]
    top_n: int | None = None
    truncate: Truncate = Truncate.END
    max_tokens: int | None = None
    max_tokens_per_doc: int | None = None
    raw_scores: bool = False
    store: bool = True
    schedule: Schedule = Schedule()


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs to tokenize.

    Args:
        with_pieces: Return what each token stands for too.
        with_offsets: Return the places of the tokens too; the inputs must be texts.
    """

    model: str
    inputs: Sequence[Input]
    add_special: bool = True
    parse_special: bool = True
    prompt: Prompt | None = None
    with_pieces: bool = False
    with_offsets: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """The tokens of one input.

    Args:
        prefix: The prompt that was put before its text.
        offsets: Places of the tokens in the prefix and the text, without those in *frame*.
        frame: The special tokens before and after the text.
    """

    ids: TokenIds
    pieces: Sequence[TokenPiece] = ()
    prefix: str = ""
    offsets: Offsets | None = None
    frame: tuple[Sequence[TokenPiece], Sequence[TokenPiece]] = ((), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """An input that was cut; both counts are tokens and include special ones."""

    index: int
    tokens: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlace:
    """A chunk of a text: the index of its input, its first character and the one after its last.

    ``tokens`` are those of the text in it, without special tokens and the prompt.
    """

    input: int
    start: int
    end: int
    tokens: int


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a request went, in seconds.

    ``load`` counts from the request's arrival; it is 0.0 when the model was ready.
    """

    load: float = 0.0
    tokenize: float = 0.0
    queue: float = 0.0
    compute: float = 0.0
    total: float = 0.0


class VectorSource(StrEnum):
    """Where the vector of an input came from that was not computed for its request."""

    CACHE = "cache"
    JOINED = "joined"  # another request was computing it at the moment
    EQUAL = "equal"  # to an input before it in the request


class ComputedBy(NamedTuple):
    """The engine and the backend that computed a vector."""

    engine: str
    backend: str


class ServedBy(msgspec.Struct, frozen=True, kw_only=True):
    """What computed the vectors; an index needs new ones when it changes.

    Args:
        engine, backend: Of all vectors; names are joined by ``+`` if a fallback took over while
            the request was computed.
        tokenizer: Whose ids they are of: ``model`` is its own tokenizer, ``llama`` llama.cpp's.
    """

    digest: str
    engine: str
    backend: str
    tokenizer: str = "llama"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is reported with every computed result.

    Args:
        tokens: Of each sequence after truncation, special tokens included.
        reused: How many vectors were not computed for this request, by their source.
        served_by: None when nothing was computed.
    """

    tokens: Sequence[int]
    warnings: Sequence[str] = ()
    truncated: Sequence[Truncated] = ()
    timings: Timings
    reused: Mapping[VectorSource, int] = msgspec.field(default_factory=dict)
    served_by: ServedBy | None = None


class EmbedResult(Result, frozen=True, kw_only=True):
    """Vectors in the order of the inputs.

    The model's queue makes it with the vectors as they were computed; the embedder finishes
    them and adds what it knows.

    Args:
        vectors: Shape (inputs, dimensions). For a request ``per_token``: (tokens of all
            inputs, dimensions), and ``tokens`` says where each input ends. For one with
            ``chunk``: (chunks, dimensions), or (inputs, dimensions) if they are pooled.
        rows: For each input the row of its vector in *vectors*, where equal inputs share one;
            None: the row of the same number.
        computed_by: For each row of *vectors*, or each input ``per_token``, what computed it.
        chunks: Of a request with ``chunk``, in order.
        quantized: The types that ``formats`` ask for besides float, in the rows of *vectors*.
        int8_range: The number that becomes 127 in int8; None: each vector's largest.
    """

    vectors: Vectors
    rows: RowNumbers | None = None
    computed_by: Sequence[ComputedBy] = ()
    chunks: Sequence[ChunkPlace] = ()
    quantized: Mapping[DType, Quantized] = msgspec.field(default_factory=dict)
    int8_range: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """The answer to a request as arrays: what a client and a bulk job see of it.

    Args:
        vectors: One for each text, or for each chunk of each; numbers, or bytes, of the type
            that was wanted.
        tokens: Of all texts together.
        cut: How many texts were cut.
        chunks: Where the texts were cut into chunks, if that was wanted.
        served_by: What computed them, as ``X-Embedd-Model`` says it.
    """

    vectors: npt.NDArray[Any]
    tokens: int
    cut: int = 0
    chunks: Sequence[ChunkPlace] | None = None
    served_by: str = ""


class RerankResult(Result, frozen=True, kw_only=True):
    """The best documents first, each as its index in the request and its score.

    ``tokens`` are those of the pairs, in the order of the request.
    """

    ranked: Sequence[tuple[int, float]]
