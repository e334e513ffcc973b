"""Messages between the server and a worker: the headers of frames, see `framing`."""

from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from embedd.engine.backends import Backend
from embedd.engine.settings import ONE_REPLICA, Tuning
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tokenizer_place import LLAMA_TOKENIZER, TokenizerPlace, TokenizerVerdict
from embedd.types import Pooling


class Load(msgspec.Struct, tag="load", frozen=True, kw_only=True):
    """Load a model; the first message to every worker. The answer is `Ready`.

    Args:
        id: Of the call; set by `WorkerProcess.load`.
        cores: Cores to compute with, all replicas together.
        crosscheck: Compare the vectors with llama.cpp's if another engine computes them, and
            test that one with a full batch.
        vocabulary_only: Load the tokenizer and no weights.
        tokenizer: Where the model is tokenized; None: where it can be, which `Ready` says.
    """

    id: int = 0
    spec: ModelSpec
    backend: Backend
    cores: int = 1
    tuning: Tuning = ONE_REPLICA
    crosscheck: bool = False
    vocabulary_only: bool = False
    tokenizer: TokenizerPlace | None = TokenizerPlace.LLAMA


class Cores(msgspec.Struct, tag="cores", frozen=True):
    """Compute with *count* cores, all replicas together, from the next batch on."""

    count: int


class Tokenize(msgspec.Struct, tag="tokenize", frozen=True):
    """Tokenize these texts. The answer is `Tokens`."""

    id: int
    texts: list[str]
    add_special: bool = True
    parse_special: bool = True


class Locate(msgspec.Struct, tag="locate", frozen=True):
    """Tokenize these texts without special tokens around them. The answer is `Tokens`.

    After the ids its array holds two numbers for each token: the first character of its text
    that it stands for, and the one after the last.
    """

    id: int
    texts: list[str]
    parse_special: bool = True


class Abandon(msgspec.Struct, tag="abandon", frozen=True):
    """Nothing waits for the answer to this `Tokenize` or `Locate` any more."""

    id: int


class Detokenize(msgspec.Struct, tag="detokenize", frozen=True):
    """Turn the token ids in the array into text. The answer is `Texts`.

    With ``lengths`` one text for each sequence of so many tokens; without, one text for
    each token.
    """

    id: int
    lengths: list[int] | None
    special: bool = True


class Encode(msgspec.Struct, tag="encode", frozen=True):
    """Encode sequences of these lengths; their ids lie end to end in the array.

    The answer is `Computed`. An ``urgent`` batch overtakes waiting batches that are not.
    A batch that is to run ``alone``, because it may be at fault or is a trial, is not
    computed together with others and gets no more than its replica's share of the cores.
    """

    id: int
    pooling: Pooling | None
    lengths: list[int]
    urgent: bool = False
    alone: bool = False


class Abort(msgspec.Struct, tag="abort", frozen=True):
    """Drop this batch if it waits; stop computing it once no other batch needs the result.

    With ``stuck``, stop it at once, with all batches that are computed together with it.
    """

    id: int
    stuck: bool = False


class Ping(msgspec.Struct, tag="ping", frozen=True):
    """Give a sign of life at once, whatever the other threads do. The answer is `Pong`."""


class Pong(msgspec.Struct, tag="pong", frozen=True):
    """Answer to `Ping`."""


class Progress(msgspec.Struct, tag="progress", frozen=True):
    """A share (0 … 1) of the weights is loaded."""

    share: float


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """Answer to `Load`: the model is loaded and passed its self-test, which took this long.

    The array holds what the self-test computed, so that backends can be compared.

    Args:
        tokenizer: What was found out about the model's own tokenizer.
    """

    id: int
    info: ModelInfo
    seconds_per_token: float = 0.0
    tokenizer: TokenizerVerdict = LLAMA_TOKENIZER


class Tokens(msgspec.Struct, tag="tokens", frozen=True):
    """Answer to `Tokenize` and `Locate`: lengths of the sequences; the array holds their ids."""

    id: int
    lengths: list[int]


class Texts(msgspec.Struct, tag="texts", frozen=True):
    """Answer to `Detokenize`; ``special`` says of each token whether it is a special one."""

    id: int
    texts: list[bytes]
    special: list[bool] = []


class Computed(msgspec.Struct, tag="computed", frozen=True):
    """Answer to `Encode`: the array has shape (rows, width), in ``seconds`` of compute."""

    id: int
    rows: int
    seconds: float


class Fault(StrEnum):
    """Why a call failed; decides which error its caller gets."""

    INPUT = "input"  # the texts or token ids of this call
    STOPPED = "stopped"  # aborted, or computed together with a batch that was stuck
    MODEL = "model"  # the model cannot be loaded by this engine, or by any
    SELF_TEST = "self_test"  # the model computes wrong vectors on this backend
    MEMORY = "memory"  # not enough memory to load the model


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """Answer to any call that failed; ``index`` is the sequence at fault, if known."""

    id: int
    message: str
    fault: Fault = Fault.INPUT
    index: int | None = None


ToWorker: TypeAlias = (
    Load | Cores | Tokenize | Locate | Abandon | Detokenize | Encode | Abort | Ping
)
FromWorker: TypeAlias = Progress | Ready | Tokens | Texts | Computed | Pong | Failed


def _to_text(value: Any) -> str:
    """The text of a path, the only type of a message that msgspec does not know."""
    if isinstance(value, Path):
        return str(value)
    # What msgspec asks of a hook that does not know a type.
    raise NotImplementedError(f"a message cannot hold {type(value).__name__}")


def to_path(_kind: type, value: Any) -> Path:
    """The path of a text; msgspec turns the error into its own."""
    if isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_text)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker, dec_hook=to_path)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def to_header(message: msgspec.Struct) -> bytes:
    """The header of a frame with *message*."""
    return _encoder.encode(message)


def parse_to_worker(header: bytes) -> ToWorker:
    """The message in the header of a frame from the server.

    Raises:
        msgspec.MsgspecError: It is not one.
    """
    return _to_worker.decode(header)


def parse_from_worker(header: bytes | memoryview) -> FromWorker:
    """The message in the header of a frame from a worker.

    Raises:
        msgspec.MsgspecError: It is not one.
    """
    return _from_worker.decode(header)
