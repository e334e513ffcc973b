"""What an engine is: the protocol that every implementation keeps, and its facts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from embedd.engine.stop import Stop
from embedd.errors import EngineError
from embedd.tokens import Frame, PairFrame
from embedd.types import EngineChoice, Labels, Piece, Pooling, TokenIds, Vectors


class StoppedError(EngineError):
    """The computation was stopped, as it was asked to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What to load and how: everything that makes two loaded models different.

    Args:
        name: Shortest display name, for messages only.
        digest: ``sha256:<64 hex>`` of the GGUF.
        context_length: Tokens of the longest sequence that the model was trained for.
        vocabulary: Number of token ids.
        width: Numbers in one vector.
        weights: Bytes of the GGUF.
        gpu_layers: Layers placed on the GPU; None leaves it to the engine, 0 is the CPU.
        parts: Further files of a split GGUF, in order; ``path`` is the first.
        threads: Cores that one encode may use; None leaves it to the server.
        engine: Which one is to compute it; None leaves it to the operator.
        elements: Numbers in all its weights.
        exact: Whether its weights are floating-point numbers, not quantised.
    """

    name: str
    digest: str
    path: Path
    pooling: Pooling
    context_length: int
    vocabulary: int
    width: int
    weights: int
    engine: EngineChoice | None = None
    elements: int = 0
    exact: bool = False
    gpu_layers: int | None = None
    main_gpu: int | None = None
    threads: int | None = None
    use_mmap: bool = True
    parts: tuple[Path, ...] = ()

    @property
    def key(self) -> tuple[str, Pooling, EngineChoice | None]:
        """Identity in memory: names that agree in these share one loaded model.

        Where it is placed takes effect at the next load.
        """
        return (self.digest, self.pooling, self.engine)


OPENVINO = "openvino"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step of the ladder of engines and settings; the last is the safest.

    ``extra_buffers`` lets llama.cpp repack weights for AMX and its kin. With ``gpu`` it puts
    layers on a GPU, and uses flash attention where that has kernels for it.
    """

    name: str
    extra_buffers: bool
    flash_attention: bool
    engine: str = "llama"
    gpu: bool = False

    @property
    def is_reference(self) -> bool:
        """Whether nothing else can help where it fails: llama.cpp stands behind the others."""
        return self.engine != OPENVINO

    @property
    def has_fallback(self) -> bool:
        """Whether a model that it refuses may do on the rungs below it."""
        return self.gpu or not self.is_reference


GPU_RUNG = Rung(name="gpu1", extra_buffers=True, flash_attention=True, gpu=True)
OPENVINO_RUNG = Rung(name="ov1", extra_buffers=False, flash_attention=False, engine=OPENVINO)
CPU_LADDER = (
    Rung(name="cpu1", extra_buffers=True, flash_attention=True),
    Rung(name="cpu2", extra_buffers=False, flash_attention=True),
    Rung(name="cpu3", extra_buffers=False, flash_attention=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a loaded model says of itself.

    Args:
        width: Numbers in one vector.
        limit: Tokens of the longest sequence that `Engine.encode` accepts.
        vocabulary: Number of token ids; valid ids are ``0 … vocabulary - 1``.
        max_batch_tokens: Tokens in a batch that this engine computes best; a longer
            sequence is encoded alone.
        max_sequences: Sequences that one batch may hold.
        rung: Step of the ladder of safe settings that the model runs on (``cpu1`` …).
        replicas: Contexts that compute side by side.
        gpu_bytes: Memory taken on a GPU.
        pair: What stands around a query and a document; None if nothing can be told apart.
        labels: Names of a reranker's scores, one for each number that it computes.
        distance: The most that its vectors were from llama.cpp's; None: not compared.
        padded: Whether a batch costs its rows times its longest sequence, see `padding`.
    """

    width: int
    limit: int
    pooling: Pooling
    frame: Frame
    vocabulary: int
    max_batch_tokens: int
    max_sequences: int
    engine: str
    rung: str
    replicas: int = 1
    gpu_bytes: int = 0
    pair: PairFrame | None = None
    labels: Labels = ()
    distance: float | None = None
    padded: bool = False


class Tokenizer(Protocol):
    """A model's vocabulary. All calls block; one thread makes them."""

    @property
    def info(self) -> ModelInfo:
        """Facts that do not change; of a vocabulary without weights the numbers are 0."""
        ...

    def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        """Token ids of each text, never cut.

        Args:
            add_special: With the special tokens that stand around every text.
            parse_special: A text that spells a special token gets it.
        """
        ...

    def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """The text of each sequence, in UTF-8 as far as its tokens are.

        Args:
            special: Special tokens are spelled; otherwise they are left out.

        Raises:
            EngineError: An id is outside the vocabulary.
        """
        ...

    def spell(self, ids: TokenIds) -> list[Piece]:
        """What each token stands for.

        Raises:
            EngineError: An id is outside the vocabulary.
        """
        ...

    def close(self) -> None:
        """Give everything back. No call may follow."""
        ...


class Engine(Tokenizer, Protocol):
    """Loaded weights that compute. All calls block.

    One thread calls `encode` and `set_threads`; those of `Tokenizer` may run beside it, in
    another. For more threads that encode there are replicas. Implementations are made by a
    class method ``load`` with the arguments of `LlamaEngine.load`.
    """

    def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        stop: Stop | None = None,
    ) -> Vectors:
        """Vectors as the model gives them, not normalised.

        With the model's own pooling (None) or another of `Pooling` but ``none``: shape
        (sequences, width), of ``rank`` (sequences, labels). With ``Pooling.NONE``: one row
        per token, sequence after sequence. A row that is not finite or has norm 0 is
        returned as it is: the worker decides what becomes of it.

        Args:
            stop: Set by another thread, it ends the computation soon, where the engine can.

        Raises:
            StoppedError: *stop* was set.
            EngineError: A sequence is empty, too long, or has an id outside the
                vocabulary; the batch is larger than the engine takes; or computing
                failed. The next call is not affected.
        """
        ...

    def replicate(self) -> "Engine":
        """Another engine on the same weights, for a thread of its own.

        It gives the same vectors, and is closed before this one.
        """
        ...

    def set_threads(self, threads: int) -> None:
        """Compute with so many cores from the next batch on."""
        ...


def check_ids(ids: TokenIds, vocabulary: int) -> None:
    """Refuse ids that are none of *vocabulary*: in a C library they end the process.

    Raises:
        EngineError: There is one.
    """
    if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
        raise EngineError(f"a token id is outside 0 … {vocabulary - 1}")
