"""Words everybody may use: requests, results, facts of a model. No behaviour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = npt.NDArray[np.int32]  # (tokens,)
ClientIds: TypeAlias = npt.NDArray[np.int64]  # (tokens,), as sent: not yet known to be valid
Vector: TypeAlias = npt.NDArray[np.float32]  # (dimensions,)
Vectors: TypeAlias = npt.NDArray[np.float32]  # (inputs, dimensions)
Labels: TypeAlias = tuple[str, ...]  # of a reranker's scores, "" where they have no name
Quantized: TypeAlias = npt.NDArray[np.int8] | npt.NDArray[np.uint8]  # (inputs, numbers or bytes)


class TokenPiece(NamedTuple):
    """What one token stands for: bytes of a text, or the name of a special token."""

    text: bytes
    is_special: bool


class Pooling(StrEnum):
    """How token vectors become the vector of a sequence."""

    NONE = "none"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


class Truncate(StrEnum):
    """Which end of an over-long input is cut off, if any."""

    END = "end"
    START = "start"
    ERROR = "error"


class Normalize(StrEnum):
    """What is done to the length of a vector."""

    L2 = "l2"
    NONE = "none"
    LEGACY = "legacy"  # as Ollama's old route does for this kind of model


class DType(StrEnum):
    """What the numbers of a vector become."""

    FLOAT = "float"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"


class Wire(StrEnum):
    """How a vector is written."""

    LIST = "list"
    BASE64 = "base64"


class DimensionRule(StrEnum):
    """What is done with more `dimensions` than the model has, or a length it was not made for."""

    LENIENT = "lenient"  # ignored, as in Ollama
    STRICT = "strict"  # refused; another length than the model's own gets a warning
    MATRYOSHKA = "matryoshka"  # as strict, and only for models that were made to be cut


class EngineChoice(StrEnum):
    """Which engine is to compute a model; ``auto`` is the faster one that is right."""

    AUTO = "auto"
    LLAMA = "llama"
    OPENVINO = "openvino"


class Role(StrEnum):
    """What a text is used for: decides the prefix that the model was trained with."""

    NONE = "none"
    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPrompt:
    """A prompt of the model's own besides those of `Role`.

    Args:
        is_optional: A model that has none of this name does without.
    """

    name: str
    is_optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One form in which every vector is sent.

    Args:
        key: What the client calls it; empty if it named no form.
    """

    key: str = ""
    dtype: DType = DType.FLOAT
    wire: Wire = Wire.LIST


@dataclass(frozen=True, slots=True)
class Mixed:
    """One sequence of texts and ids; a text at its start gets the special tokens."""

    parts: Sequence[str | ClientIds]


Input: TypeAlias = str | ClientIds | Mixed


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Texts or token sequences to embed, in the words of no dialect.

    ``options`` are runner options as the client sent them; they are checked after
    the model is known. ``store`` lets vectors come from the cache and go to it.
    ``keep_alive`` is in seconds, ``math.inf`` for ever, None to keep what the model has.
    ``max_tokens`` caps every input below the model's own limit. A number in ``normalize``
    is that p-norm, 0 the largest number, as in `embedd.vectors.scale_to_p_norm`.
    """

    model: str
    inputs: Sequence[Input]
    truncate: Truncate = Truncate.END
    max_tokens: int | None = None
    dimensions: int | None = None
    dimension_rule: DimensionRule = DimensionRule.LENIENT
    normalize: Normalize | int = Normalize.L2
    outputs: Sequence[Output] = (Output(),)
    role: Role = Role.NONE
    prompt: NamedPrompt | None = None
    per_token: bool = False
    store: bool = True
    keep_alive: float | None = None
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """Documents to be ordered by how well they answer a query.

    ``top_n`` is how many come back, None for all; ``max_tokens_per_doc`` caps every
    document. ``raw_scores`` are the model's logits, others are in 0 … 1.
    """

    model: str
    query: str
    documents: Sequence[str]
    top_n: int | None = None
    truncate: Truncate = Truncate.END
    max_tokens_per_doc: int | None = None
    raw_scores: bool = False
    store: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """Inputs to tokenize; ``with_pieces`` asks what each token stands for."""

    model: str
    inputs: Sequence[Input]
    add_special: bool = True
    parse_special: bool = True
    role: Role = Role.NONE
    prompt: NamedPrompt | None = None
    with_pieces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """The tokens of one input; ``prefix`` is the prompt that was put before its text."""

    ids: TokenIds
    pieces: Sequence[TokenPiece] = ()
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """An input that was cut: both counts in tokens, special tokens included."""

    index: int
    tokens: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of a request went, in seconds.

    ``load`` counts from arrival; it is 0.0 when the model was ready. ``reused`` of
    the inputs were not computed for it.
    """

    load: float = 0.0
    tokenize: float = 0.0
    queue: float = 0.0
    compute: float = 0.0
    total: float = 0.0
    reused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBy:
    """What computed the vectors: an index can tell when its vectors would change."""

    digest: str
    engine: str
    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """What is said of every computed result.

    ``tokens`` counts after truncation, special tokens included. ``served_by`` is None
    when nothing was computed.
    """

    tokens: Sequence[int]
    warnings: Sequence[str] = ()
    truncated: Sequence[Truncated] = ()
    timings: Timings
    served_by: ServedBy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult(Computed):
    """Vectors in the order of the inputs.

    ``vectors`` has shape (inputs, dimensions); asked for ``per_token`` it has
    (tokens of all inputs, dimensions) and ``tokens`` tells where each input ends.
    ``quantized`` has what `outputs` asked for besides
    float; ``int8_range`` is the model's constant for that, None where each vector has
    its own.
    """

    vectors: Vectors
    quantized: Mapping[DType, Quantized] = field(default_factory=dict)
    int8_range: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A document's place in the request, and its score."""

    index: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankResult(Computed):
    """The best documents first; ``tokens`` are of the pairs, in the order of the request."""

    ranked: Sequence[Ranked]
