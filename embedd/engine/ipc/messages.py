"""Messages between the server and a worker: the headers of frames, see `framing`."""

from enum import StrEnum
from typing import TypeAlias

import msgspec

from embedd.types import Pooling, Precision


class Load(msgspec.Struct, tag="load", frozen=True):
    """Load this model; the first message to every worker."""

    engine: str
    path: str
    pooling: Pooling
    context_length: int
    gpu_layers: int | None
    main_gpu: int | None
    use_mmap: bool
    backend: str
    extra_buffers: bool
    flash_attention: bool
    cores: int
    replicas: int
    batch_tokens: int | None
    parts: list[str] = []
    gpu: bool = False
    vocabulary_only: bool = False
    tolerance: float | None = None
    precision: Precision | None = None


class Cores(msgspec.Struct, tag="cores", frozen=True):
    """Compute with so many cores, all replicas together, from the next batch on."""

    count: int


class Tokenize(msgspec.Struct, tag="tokenize", frozen=True):
    """Tokenize these texts."""

    id: int
    texts: list[str]
    add_special: bool = True
    parse_special: bool = True


class Detokenize(msgspec.Struct, tag="detokenize", frozen=True):
    """Texts of sequences of these lengths; the array holds their ids, end to end."""

    id: int
    lengths: list[int]
    special: bool


class Spell(msgspec.Struct, tag="spell", frozen=True):
    """What each of the ids in the array stands for."""

    id: int


class Encode(msgspec.Struct, tag="encode", frozen=True):
    """Encode sequences of these lengths; the array holds their ids, end to end.

    An ``urgent`` batch passes those that have not started and are not. One that wants to
    be ``alone`` is not computed together with others, and has no more than its replica's
    share of the cores: it is under suspicion, or a trial.
    """

    id: int
    pooling: Pooling | None
    lengths: list[int]
    urgent: bool = False
    alone: bool = False


class Abort(msgspec.Struct, tag="abort", frozen=True):
    """Nobody waits for this batch: forget it, or stop computing it.

    What is computed together with it goes on, but if it is ``stuck``: then all of it stops.
    """

    id: int
    stuck: bool = False


class Progress(msgspec.Struct, tag="progress", frozen=True):
    """A share (0 … 1) of the weights is loaded."""

    share: float


class Pair(msgspec.Struct, frozen=True):
    """A `PairTemplate`."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    query_lead: str
    document_lead: str


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The model is loaded and has passed its self-test."""

    width: int
    limit: int
    pooling: Pooling
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    vocabulary: int
    max_batch_tokens: int
    max_sequences: int
    replicas: int
    gpu_bytes: int
    pair: Pair | None
    labels: tuple[str, ...]
    seconds_per_token: float
    distance: float | None = None
    padded: bool = False


class Fault(StrEnum):
    """Why a model could not be loaded, by what may help."""

    REFUSED = "refused"  # nothing: the file is at fault
    WRONG = "wrong"  # another backend: the self-test failed
    MEMORY = "memory"  # more memory


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """The model cannot be loaded."""

    message: str
    fault: Fault


class Tokens(msgspec.Struct, tag="tokens", frozen=True):
    """Answer to `Tokenize`: lengths of the sequences; the array holds their ids."""

    id: int
    lengths: list[int]


class Texts(msgspec.Struct, tag="texts", frozen=True):
    """Answer to `Detokenize`."""

    id: int
    texts: list[bytes]


class Pieces(msgspec.Struct, tag="pieces", frozen=True):
    """Answer to `Spell`."""

    id: int
    texts: list[bytes]
    special: list[bool]


class Computed(msgspec.Struct, tag="computed", frozen=True):
    """Answer to `Encode`: the array has shape (rows, width), in ``seconds`` of compute."""

    id: int
    rows: int
    seconds: float


class Aborted(msgspec.Struct, tag="aborted", frozen=True):
    """This batch is not computed: it was aborted, or computed with one that was stuck."""

    id: int


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """A request failed, the worker did not; ``index`` is the sequence at fault."""

    id: int
    message: str
    index: int | None = None


ToWorker: TypeAlias = Load | Cores | Tokenize | Detokenize | Spell | Encode | Abort
FromWorker: TypeAlias = (
    Progress | Ready | Failed | Tokens | Texts | Pieces | Computed | Aborted | Refused
)

_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def parse_to_worker(header: bytes) -> ToWorker:
    """The message of a frame that the server sent."""
    return _to_worker.decode(header)


def parse_from_worker(header: bytes | memoryview) -> FromWorker:
    """The message of a frame that a worker sent."""
    return _from_worker.decode(header)
