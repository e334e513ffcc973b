"""`OpenVinoEngine`: the `Engine` protocol on OpenVINO, for encoders on a CPU."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from embedd.choices import Precision
from embedd.engine.backends import Backend
from embedd.engine.llama.library import open_library
from embedd.engine.llama.model import LlamaModel
from embedd.engine.llama.tokenizer import LlamaTokenizer
from embedd.engine.openvino import families
from embedd.engine.openvino.families import build_graph, find_kept
from embedd.engine.openvino.library import compile_graph, open_core
from embedd.engine.openvino.tensors import Gguf
from embedd.engine.padding import group_alike, round_length
from embedd.engine.protocol import Stop, StoppedError
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.errors import EngineError, ModelLoadError
from embedd.types import Pooling, TokenIds, Vectors

# Padded tokens of a batch before anything was measured: speed is flat from 512 to 2048.
START_BATCH_TOKENS = 1024
MAX_SEQUENCES = 128

TOKENS, POOLED = 0, 1  # outputs of a graph
# In texts of OpenVINO's errors, which have one class for all causes.
OUT_OF_MEMORY: Final = re.compile(r"can't alloc|bad_alloc|[Ff]ailed to allocate")


class Compilations:
    """A graph compiled for different numbers of threads, each when it is first needed.

    Each compilation has its own copy of the weights. Safe to use from any thread.

    Args:
        streams: Threads of one computation → computations that run side by side with so many.

    Attributes:
        kept: Name of the graph's third input, see `build_graph`; None if it has none.
    """

    def __init__(self, graph: Any, streams: Mapping[int, int], precision: Precision) -> None:
        self._graph: Any = graph
        self.kept: str | None = find_kept(graph)
        self._streams = streams
        self._precision = precision
        self._compiled: dict[int, Any] = {}
        self._lock = threading.Lock()

    def choose(self, threads: int) -> int:
        """Return the largest number of threads up to *threads* that is offered, or the smallest."""
        fitting = [count for count in self._streams if count <= threads]
        return max(fitting, default=min(self._streams))

    def make_request(self, count: int) -> Any:
        """Return a request that computes with *count* threads, a number that `choose` returned.

        Raises:
            UnsuitableError: OpenVINO refuses the graph.
            ModelLoadError: OpenVINO cannot compute in bf16 on this CPU.
        """
        with self._lock:
            if count not in self._compiled:
                self._compiled[count] = compile_graph(
                    self._graph,
                    streams=self._streams[count],
                    threads=count,
                    precision=self._precision,
                )
            if len(self._compiled) == len(self._streams):
                self._graph = None  # no more compilations will be needed
            return self._compiled[count].create_infer_request()


class OpenVinoEngine:
    """Requests to a GGUF's compiled graph. The first is made by `load`, others by `replicate`.

    Attributes:
        info: Facts that do not change while the model is loaded.
        tokenizer: The tokenizer of the model, shared by all replicas.
    """

    def __init__(
        self,
        model: LlamaModel,
        tokenizer: LlamaTokenizer,
        compilations: Compilations,
        info: ModelInfo,
        *,
        threads: int,
        is_replica: bool = False,
    ) -> None:
        self._model = model
        self.tokenizer = tokenizer
        self._compilations = compilations
        self.info = info
        self._threads = threads
        self._is_replica = is_replica
        self._requests: dict[int, Any] = {}

    @classmethod
    def prepare(cls) -> None:
        """Open the libraries that the load of any model needs.

        Raises:
            EmbeddError: They cannot be used on this machine.
        """
        open_core()
        open_library()

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        backend: Backend,
        *,
        threads: int,
        replicas: int = 1,
        batch_tokens: int | None = None,
        report: Callable[[float], None] = lambda _share: None,
    ) -> Self:
        """Build the graph and compile it for a lone batch; for *replicas* when they first compute.

        Args:
            batch_tokens: Measured best size of a batch, padding included; None if it was not
                measured.

        Raises:
            ModelLoadError: The file or its tokenizer cannot be used by any engine, or the CPU
                cannot compute in bf16.
            UnsuitableError: This engine cannot compute the model.
        """
        model = LlamaModel(spec.path, parts=spec.parts, extra_buffers=False, with_weights=False)
        if spec.pooling is Pooling.RANK and not model.scores:
            raise ModelLoadError("the GGUF has no classification head: it cannot rerank")
        report(0.1)
        tokenizer = LlamaTokenizer(model)
        gguf = Gguf([spec.path, *spec.parts])
        graph = build_graph(gguf, spec.pooling)
        report(0.5)
        streams = choose_streams(threads, replicas)
        compilations = Compilations(graph, streams, backend.precision or Precision.F32)
        info = ModelInfo(
            width=model.width,
            limit=model.context_length,
            pooling=spec.pooling,
            special_tokens=tokenizer.special_tokens,
            vocabulary=model.vocabulary,
            max_batch_tokens=batch_tokens or START_BATCH_TOKENS,
            max_sequences=MAX_SEQUENCES,
            engine="openvino",
            backend=backend.name,
            pair_template=tokenizer.pair_template,
            labels=model.labels if spec.pooling is Pooling.RANK else (),
            padded=True,
        )
        engine = cls(model, tokenizer, compilations, info, threads=threads)
        engine.find_request()
        report(1.0)
        return engine

    def replicate(self) -> "OpenVinoEngine":
        """See `Engine.replicate`."""
        return OpenVinoEngine(
            self._model,
            self.tokenizer,
            self._compilations,
            self.info,
            threads=self._threads,
            is_replica=True,
        )

    def set_threads(self, threads: int) -> None:
        """See `Engine.set_threads`; the graph is compiled for few numbers, the nearest is used."""
        self._threads = threads

    def find_request(self) -> Any:
        """Return the request for the present number of threads, compiling the graph if needed.

        Raises:
            UnsuitableError: OpenVINO refuses the graph.
            ModelLoadError: OpenVINO cannot compute in bf16 on this CPU.
        """
        count = self._compilations.choose(self._threads)
        if count not in self._requests:
            self._requests[count] = self._compilations.make_request(count)
        return self._requests[count]

    def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        stop: Stop | None = None,
    ) -> Vectors:
        """See `Engine.encode`.

        Sequences of different length are computed in groups, one after another; *stop* is
        checked before each.
        """
        self._check(sequences, pooling)
        lengths = np.fromiter(map(len, sequences), np.int32, len(sequences))
        groups = group_alike(lengths.tolist())
        kind = pooling or self.info.pooling
        parts = []
        for rows in groups:
            if stop:
                raise StoppedError("stopped")
            parts.append(self._encode(sequences, lengths, rows, kind))
        if kind is not Pooling.NONE:
            vectors: Vectors = np.empty((len(sequences), parts[0].shape[-1]), np.float32)
            for rows, part in zip(groups, parts, strict=True):
                vectors[rows] = part
            return vectors
        tokens: dict[int, Vectors] = {}
        for rows, part in zip(groups, parts, strict=True):
            tokens |= zip(rows, np.split(part, np.cumsum(lengths[rows])[:-1]), strict=True)
        return np.concatenate([tokens[row] for row in range(len(sequences))])

    def close(self) -> None:
        """Free the requests and, with the first engine, the model."""
        self._requests.clear()
        if not self._is_replica:
            self._model.close()

    def _encode(
        self,
        sequences: Sequence[TokenIds],
        lengths: npt.NDArray[np.int32],
        rows: Sequence[int],
        pooling: Pooling,
    ) -> Vectors:
        """Return the vectors of the sequences at *rows*, or of all their tokens."""
        of_rows = lengths[rows]
        longest = min(round_length(int(of_rows.max())), self.info.limit)
        is_token = np.arange(longest) < of_rows[:, np.newaxis]
        ids = np.zeros((len(rows), longest), np.int32)
        ids[is_token] = np.concatenate([sequences[row] for row in rows])
        request = self.find_request()
        kept = self._choose_kept(of_rows, longest, own=pooling is self.info.pooling)
        try:
            outputs = request.infer([ids, of_rows, *kept], share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            if OUT_OF_MEMORY.search(str(error)):
                # Ends the worker: what failed to get memory computes nonsense afterwards.
                raise MemoryError("OpenVINO got no memory for a batch") from error
            raise EngineError(f"OpenVINO failed: {error}") from error
        if pooling is self.info.pooling:
            return np.array(outputs[POOLED], np.float32)
        return pool(outputs[TOKENS], is_token, pooling)

    def _choose_kept(
        self, lengths: npt.NDArray[np.int32], longest: int, *, own: bool
    ) -> list[npt.NDArray[np.int32]]:
        """Return the third input of a graph that has one: one token of each sequence, or all.

        Args:
            own: Whether the vectors are pooled as the model itself does.
        """
        match self._compilations.kept:
            case None:
                return []
            case _ if not own:
                return [np.tile(np.arange(longest, dtype=np.int32), (len(lengths), 1))]
            case families.FIRST:
                return [np.zeros((len(lengths), 1), np.int32)]
            case _:
                return [lengths[:, np.newaxis] - np.int32(1)]

    def _check(self, sequences: Sequence[TokenIds], pooling: Pooling | None) -> None:
        if not 0 < len(sequences) <= MAX_SEQUENCES:
            raise EngineError(
                f"the batch has {len(sequences)} sequences, allowed are 1 to {MAX_SEQUENCES}"
            )
        if pooling is Pooling.RANK and self.info.pooling is not Pooling.RANK:
            raise EngineError("the model is not loaded as a reranker")
        info = self.info
        for index, ids in enumerate(sequences):
            if len(ids) == 0:
                raise EngineError("input has no tokens", index=index)
            if len(ids) > info.limit:
                raise EngineError(
                    f"a sequence has {len(ids)} tokens, the limit is {info.limit}", index=index
                )
            if ids.min() < 0 or ids.max() >= info.vocabulary:
                raise EngineError(f"a token id is outside 0 … {info.vocabulary - 1}", index=index)


def pool(
    tokens: npt.NDArray[np.float32], is_token: npt.NDArray[np.bool_], pooling: Pooling
) -> Vectors:
    """Pool token vectors (sequences, tokens, width) in another way than the model's own."""
    lengths = is_token.sum(axis=1)
    match pooling:
        case Pooling.MEAN:
            sums = np.einsum("stw,st->sw", tokens, is_token)
            return np.asarray(sums / lengths[:, np.newaxis], np.float32)
        case Pooling.LAST:
            return np.array(tokens[np.arange(len(tokens)), lengths - 1], np.float32)
        case Pooling.CLS:
            return np.array(tokens[:, 0], np.float32)
        case _:
            return np.array(tokens[is_token], np.float32)


def choose_streams(threads: int, replicas: int) -> dict[int, int]:
    """Return the numbers of threads to compile for → computations side by side with so many.

    A lone batch gets all threads; *replicas* that compute side by side share them equally.
    """
    return {threads: 1, max(1, threads // replicas): replicas}
