"""`LlamaEngine`: the `Engine` protocol on llama.cpp."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

from embedd.engine.backends import Backend
from embedd.engine.llama.context import (
    FLASH_ATTENTION_AUTO,
    FLASH_ATTENTION_OFF,
    FLASH_ATTENTION_ON,
    Context,
)
from embedd.engine.llama.library import find_gpu, open_library, take_gpu_bytes
from embedd.engine.llama.model import LlamaModel, Report
from embedd.engine.llama.tokenizer import LlamaTokenizer
from embedd.engine.protocol import Stop
from embedd.engine.settings import choose_gpu_batch
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.errors import EngineError, ModelLoadError
from embedd.types import Pooling, TokenIds, Vectors

# Tokens in a batch before anything was measured on this machine: larger batches are
# slower, because attention is computed over the square of the whole batch.
START_BATCH_TOKENS = 256
START_BATCH_TOKENS_WITHOUT_FLASH = 64
# Tokens that the permanent context holds. Memory follows the largest batch so far, so room for
# an ordinary document costs little; a new context for every document costs time.
PERMANENT_TOKENS = 512
MAX_SEQUENCES = 32
MAX_SEQUENCES_ON_GPU = 128
# Of the states that a context keeps from its start for recurrent layers: Qwen3.5 with 0.8 B
# parameters takes some 20 MB for each sequence.
MAX_STATE_BYTES = 128 << 20


class LlamaEngine:
    """A llama.cpp context on a loaded GGUF. The first is made by `load`, others by `replicate`.

    Attributes:
        info: Facts that do not change while the model is loaded.
        tokenizer: The tokenizer of the model, shared by all replicas.
    """

    def __init__(
        self,
        model: LlamaModel,
        tokenizer: LlamaTokenizer,
        backend: Backend,
        info: ModelInfo,
        *,
        threads: int,
        is_replica: bool = False,
    ) -> None:
        self._model = model
        self.tokenizer = tokenizer
        self._backend = backend
        self.info = info
        self._threads = threads
        self._is_replica = is_replica
        self._context = self._open_context(
            info.pooling, max(info.max_batch_tokens, min(info.limit, PERMANENT_TOKENS))
        )

    @classmethod
    def prepare(cls) -> None:
        """Open the library that the load of any model needs.

        Raises:
            EngineError: It cannot be used on this machine.
        """
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
        report: Report = lambda _share: None,
    ) -> Self:
        """Load the weights.

        Args:
            replicas: How many will compute side by side; no effect here.
            batch_tokens: Measured best size of a batch; None if it was not measured.

        Raises:
            ModelLoadError: The file, its tokenizer or its pooling cannot be used.
            EngineError: The backend wants a GPU, and llama.cpp finds none.
        """
        del replicas
        if backend.gpu:
            find_gpu()
        model = LlamaModel(
            spec.path,
            parts=spec.parts,
            extra_buffers=backend.extra_buffers,
            gpu_layers=spec.gpu_layers,
            main_gpu=spec.main_gpu,
            use_mmap=spec.use_mmap,
            report=report,
        )
        if spec.pooling is Pooling.RANK and not model.scores:
            raise ModelLoadError("the GGUF has no classification head: it cannot rerank")
        tokenizer = LlamaTokenizer(model)
        info = ModelInfo(
            width=model.width,
            limit=model.context_length,
            pooling=spec.pooling,
            special_tokens=tokenizer.special_tokens,
            vocabulary=model.vocabulary,
            max_batch_tokens=batch_tokens or _choose_batch(model, backend),
            max_sequences=_choose_sequences(model, backend),
            engine="llama",
            backend=backend.name,
            pair_template=tokenizer.pair_template,
            labels=model.labels if spec.pooling is Pooling.RANK else (),
        )
        engine = cls(model, tokenizer, backend, info, threads=threads)
        if backend.gpu:
            engine.info = replace(info, gpu_bytes=take_gpu_bytes())
        return engine

    def replicate(self) -> "LlamaEngine":
        """See `Engine.replicate`."""
        return LlamaEngine(
            self._model,
            self.tokenizer,
            self._backend,
            self.info,
            threads=self._threads,
            is_replica=True,
        )

    def set_threads(self, threads: int) -> None:
        """See `Engine.set_threads`."""
        if threads != self._threads:
            self._threads = threads
            self._context.set_threads(threads)

    def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        stop: Stop | None = None,
    ) -> Vectors:
        """See `Engine.encode`."""
        longest = max(map(len, sequences), default=0)
        if longest > self.info.limit:
            raise EngineError(f"a sequence has {longest} tokens, the limit is {self.info.limit}")
        with self._context_for(pooling or self.info.pooling, sum(map(len, sequences))) as context:
            return context.encode(sequences, stop)

    def close(self) -> None:
        """Free the context and, with the first engine, the weights."""
        self._context.close()
        if not self._is_replica:
            self._model.close()

    @contextmanager
    def _context_for(self, pooling: Pooling, tokens: int) -> Iterator[Context]:
        """Return the permanent context, or a temporary one for long batches and other poolings.

        Every token of a context's capacity may cost memory until it is closed, and opening one
        takes a millisecond: so a rare long text gets its own, and the permanent one stays small.
        """
        if pooling is self.info.pooling and tokens <= self._context.capacity:
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
            sequences=self.info.max_sequences,
            pooling=pooling,
            threads=self._threads,
            flash_attention=_choose_flash_attention(self._backend),
        )


def _choose_batch(model: LlamaModel, backend: Backend) -> int:
    if backend.gpu:
        return choose_gpu_batch(model.vocabulary, model.width)
    start = START_BATCH_TOKENS if backend.flash_attention else START_BATCH_TOKENS_WITHOUT_FLASH
    return min(model.context_length, start)


def _choose_sequences(model: LlamaModel, backend: Backend) -> int:
    most = MAX_SEQUENCES_ON_GPU if backend.gpu else MAX_SEQUENCES
    if not model.state_bytes:
        return most
    return max(1, min(most, MAX_STATE_BYTES // model.state_bytes))


def _choose_flash_attention(backend: Backend) -> int:
    if not backend.flash_attention:
        return FLASH_ATTENTION_OFF
    return FLASH_ATTENTION_AUTO if backend.gpu else FLASH_ATTENTION_ON
