"""`LlamaEngine`: the `Engine` protocol on llama.cpp."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from embedd.engine.base import ModelInfo, ModelSpec, Rung
from embedd.engine.llama.context import Context
from embedd.engine.llama.model import LlamaModel, Report
from embedd.engine.llama.vocabulary import Vocabulary
from embedd.errors import EngineError, ModelLoadError
from embedd.types import Pooling, TokenIds, Vectors

# Tokens in a batch before anything was measured on this machine: larger batches are
# slower, because attention is computed over the square of the whole batch.
START_BATCH_TOKENS = 256
START_BATCH_TOKENS_WITHOUT_FLASH = 64
MAX_SEQUENCES = 32


class LlamaEngine:
    """A GGUF in this process: one thread may encode, one other may tokenize.

    Raises:
        ModelLoadError: The file, its tokenizer or its pooling cannot be used.
    """

    def __init__(
        self, spec: ModelSpec, rung: Rung, *, threads: int, report: Report = lambda _share: None
    ) -> None:
        self._rung = rung
        self._threads = spec.threads or threads
        self._model = LlamaModel(
            spec.path,
            extra_buffers=rung.extra_buffers,
            gpu_layers=spec.gpu_layers,
            main_gpu=spec.main_gpu,
            use_mmap=spec.use_mmap,
            report=report,
        )
        if spec.pooling is Pooling.RANK and not self._model.scores:
            raise ModelLoadError("the GGUF has no classification head: it cannot rerank")
        self._vocabulary = Vocabulary(self._model)
        batch = START_BATCH_TOKENS if rung.flash_attention else START_BATCH_TOKENS_WITHOUT_FLASH
        limit = self._model.context_length
        self._context = self._open_context(spec.pooling, min(limit, batch))
        self._info = ModelInfo(
            width=self._model.width,
            limit=limit,
            pooling=spec.pooling,
            frame=self._vocabulary.frame,
            vocabulary=self._model.vocabulary,
            max_batch_tokens=self._context.capacity,
            max_sequences=self._context.sequences,
            engine="llama",
            rung=rung.name,
        )

    @property
    def info(self) -> ModelInfo:
        """Facts that do not change while the model is loaded."""
        return self._info

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """See `Engine.tokenize`."""
        return self._vocabulary.tokenize(texts)

    def encode(self, sequences: Sequence[TokenIds], pooling: Pooling | None = None) -> Vectors:
        """See `Engine.encode`."""
        longest = max(map(len, sequences), default=0)
        if longest > self._info.limit:
            raise EngineError(f"a sequence of {longest} tokens; the limit is {self._info.limit}")
        with self._context_for(pooling or self._info.pooling, sum(map(len, sequences))) as context:
            return context.encode(sequences)

    def close(self) -> None:
        """Free the context and the weights."""
        self._context.close()
        self._model.close()

    @contextmanager
    def _context_for(self, pooling: Pooling, tokens: int) -> Iterator[Context]:
        """The standing context, or a short-lived one for long batches and other poolings.

        Every token of a context's capacity costs memory for good, and opening one takes
        a millisecond: so the rare long text pays for itself and the standing context
        stays small.
        """
        if pooling is self._info.pooling and tokens <= self._context.capacity:
            yield self._context
            return
        context = self._open_context(pooling, max(tokens, 1))
        try:
            yield context
        finally:
            context.close()

    def _open_context(self, pooling: Pooling, capacity: int) -> Context:
        return Context(
            self._model,
            capacity=capacity,
            sequences=MAX_SEQUENCES,
            pooling=pooling,
            threads=self._threads,
            flash_attention=self._rung.flash_attention,
        )
