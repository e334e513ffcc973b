"""What to load, and what a loaded model reports of itself."""

from dataclasses import dataclass
from pathlib import Path

from embedd.tokenizers.truncation import PairTemplate, SpecialTokens
from embedd.types import EngineChoice, Labels, Pooling, Precision


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
        precision: Of OpenVINO's arithmetic; None leaves it to the operator.
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
    precision: Precision | None = None
    elements: int = 0
    exact: bool = False
    gpu_layers: int | None = None
    main_gpu: int | None = None
    threads: int | None = None
    use_mmap: bool = True
    parts: tuple[Path, ...] = ()

    @property
    def key(self) -> tuple[str, Pooling, EngineChoice | None, Precision | None]:
        """Identity in memory: names that agree in these share one loaded model.

        Where it is placed takes effect at the next load.
        """
        return (self.digest, self.pooling, self.engine, self.precision)


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
        backend: Step of the backends of safe settings that the model runs on (``llama`` …).
        replicas: Contexts that compute side by side.
        gpu_bytes: Memory taken on a GPU.
        pair_template: The tokens around a query and a document; None if it is not known.
        labels: Names of a reranker's scores, one for each number that it computes.
        distance: The most that its vectors were from llama.cpp's; None: not compared.
        padded: Whether a batch costs its rows times its longest sequence, see `padding`.
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
