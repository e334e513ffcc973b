"""What to load and how, and the facts of a loaded model."""

from dataclasses import dataclass
from pathlib import Path

from embedd.choices import EngineChoice, Precision, TokenizerChoice
from embedd.tokenizers.truncation import PairTemplate, SpecialTokens
from embedd.types import Labels, Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model to load and how: everything that makes two loaded models different.

    Args:
        name: Shortest name of the model, for messages only.
        digest: ``sha256:<64 hex>`` of the GGUF.
        context_length: Tokens of the longest sequence that the model was trained for.
        vocabulary: Number of token ids.
        width: Numbers in one vector.
        weights: Bytes of the GGUF.
        gpu_layers: Layers placed on the GPU; None leaves it to the engine, 0 is the CPU.
        parts: Further files of a split GGUF, in order; ``path`` is the first.
        threads: Cores that it may compute with; None leaves it to the server.
        engine: The engine to compute it with; None leaves it to the operator.
        precision: Precision of OpenVINO's arithmetic; None leaves it to the operator.
        tokenizer: The tokenizer to use; None leaves it to the operator.
        elements: Numbers in all its tensors.
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
    precision: Precision | None = None
    tokenizer: TokenizerChoice | None = None
    elements: int = 0
    exact: bool = False
    gpu_layers: int | None = None
    main_gpu: int | None = None
    threads: int | None = None
    use_mmap: bool = True
    parts: tuple[Path, ...] = ()

    @property
    def key(
        self,
    ) -> tuple[str, Pooling, EngineChoice | None, Precision | None, TokenizerChoice | None]:
        """Identity in memory: names with equal keys share one loaded model.

        Changes of the other fields take effect at the next load.
        """
        return (self.digest, self.pooling, self.engine, self.precision, self.tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Facts of a loaded model that do not change.

    Args:
        width: Numbers in one vector.
        limit: Tokens of the longest sequence that `Engine.encode` accepts.
        special_tokens: The special tokens before and after every text.
        vocabulary: Number of token ids; valid ids are ``0 … vocabulary - 1``.
        max_batch_tokens: Tokens of a batch; a longer sequence is a batch of its own.
        max_sequences: Sequences that one batch may hold.
        backend: Name of the backend that computes it (``llama`` …).
        replicas: Batches that are computed at the same time.
        gpu_bytes: Memory taken on a GPU.
        pair_template: The tokens around a query and a document; None if it is not known.
        labels: Names of a reranker's scores, one for each number that it computes.
        distance: Largest distance of its vectors from llama.cpp's; None if not compared.
        padded: Whether a batch costs its rows times its longest sequence, see `padding`.
        tokenizer: Whose ids it computes: ``model`` is its own tokenizer, ``llama`` llama.cpp's.
    """

    width: int
    limit: int
    pooling: Pooling
    special_tokens: SpecialTokens
    vocabulary: int
    max_batch_tokens: int
    max_sequences: int
    engine: str
    backend: str
    replicas: int = 1
    gpu_bytes: int = 0
    pair_template: PairTemplate | None = None
    labels: Labels = ()
    distance: float | None = None
    padded: bool = False
    tokenizer: str = "llama"
