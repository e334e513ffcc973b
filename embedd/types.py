"""Words everybody may use: requests, results, facts of a model. No behaviour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = npt.NDArray[np.int32]  # (tokens,)
ClientIds: TypeAlias = npt.NDArray[np.int64]  # (tokens,), as sent: not yet known to be valid
Vectors: TypeAlias = npt.NDArray[np.float32]  # (inputs, dimensions)


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


class Role(StrEnum):
    """What a text is used for: decides the prefix that the model was trained with."""

    NONE = "none"
    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """Texts or token sequences to embed, in the words of no dialect.

    ``options`` are runner options as the client sent them; they are checked after
    the model is known. ``keep_alive`` is in seconds, ``math.inf`` for ever, None to
    keep what the model has.
    """

    model: str
    inputs: Sequence[str | ClientIds]
    truncate: Truncate = Truncate.END
    dimensions: int | None = None
    normalize: Normalize = Normalize.L2
    role: Role = Role.NONE
    per_token: bool = False
    keep_alive: float | None = None
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncated:
    """An input that was cut: both counts in tokens, special tokens included."""

    index: int
    tokens: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of a request went, in seconds. ``load`` counts from arrival."""

    load: float = 0.0
    tokenize: float = 0.0
    queue: float = 0.0
    compute: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBy:
    """What computed the vectors: an index can tell when its vectors would change."""

    digest: str
    engine: str
    rung: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """Vectors in the order of the inputs.

    ``vectors`` has shape (inputs, dimensions); asked for ``per_token`` it has
    (tokens of all inputs, dimensions) and ``tokens`` tells where each input ends.
    ``tokens`` counts after truncation, special tokens included. ``served_by`` is
    None when nothing was computed.
    """

    vectors: Vectors
    tokens: Sequence[int]
    truncated: Sequence[Truncated] = ()
    timings: Timings
    served_by: ServedBy | None = None
