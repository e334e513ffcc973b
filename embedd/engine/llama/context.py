"""A llama.cpp context: memory in which one batch after the other is computed.

llama.cpp ends the process when a number is out of range, and after an error it still
returns the vectors of the previous batch. So every number is checked here before the
call, and no result is read unless the call returned 0.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from embedd.engine.llama.binding import lib
from embedd.engine.llama.library import fill_params, take_log_lines
from embedd.engine.llama.model import LlamaModel
from embedd.engine.protocol import Stop, StoppedError
from embedd.errors import EngineError, ModelLoadError
from embedd.types import Pooling, TokenIds, Vectors

POOLING_TYPES = {
    Pooling.NONE: 0,
    Pooling.MEAN: 1,
    Pooling.CLS: 2,
    Pooling.LAST: 3,
    Pooling.RANK: 4,
}
FLASH_ATTENTION_ON = 1
FLASH_ATTENTION_OFF = 0
FLASH_ATTENTION_AUTO = -1  # a GPU has no kernels for some models
ATTENTION_AS_DECLARED = -1
ATTENTION_BOTH_WAYS = 1
# Architectures whose tokens see those after them, but whose files may not say so.
BIDIRECTIONAL = frozenset({"llama-embed"})
STOPPED = 2  # what llama.cpp returns when its abort callback said so

# Called between the nodes of a graph with the address of a `Stop`; a string that is not empty
# stops the computation. A function of the C library, because one of Python would wait for the
# interpreter's lock some 150 times in each batch.
_is_set = lib.ggml_abort_callback(ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value or 0)


class Columns:
    """The arrays behind one reusable ``llama_batch``.

    They must live as long as the context: llama.cpp holds their addresses.
    """

    def __init__(self, capacity: int) -> None:
        self.token, self.pos, self.seq = (np.zeros(capacity, np.int32) for _ in range(3))
        self.ones = np.ones(capacity, np.int32)
        self.output = np.ones(capacity, np.int8)
        self.seq_at = (self.seq.ctypes.data + 4 * np.arange(capacity)).astype(np.uintp)
        self.batch = lib.llama_batch()
        kinds = dict(lib.llama_batch._fields_)
        for field, array in (
            ("token", self.token),
            ("pos", self.pos),
            ("n_seq_id", self.ones),
            ("seq_id", self.seq_at),
            ("logits", self.output),
        ):
            setattr(self.batch, field, ctypes.cast(array.ctypes.data, kinds[field]))

    def fill(
        self,
        rows: Sequence[int],
        sequences: Sequence[TokenIds],
        starts: Sequence[int] | None = None,
    ) -> lib.llama_batch:
        """Return the batch with these sequences.

        Args:
            rows: Sequence ids.
            starts: Position of each sequence's first token; None is 0 for all.
        """
        end = 0
        for at, (row, ids) in enumerate(zip(rows, sequences, strict=True)):
            start, end = end, end + len(ids)
            first = starts[at] if starts is not None else 0
            self.token[start:end] = ids
            self.pos[start:end] = np.arange(first, first + len(ids), dtype=np.int32)
            self.seq[start:end] = row
        self.batch.n_tokens = end
        return self.batch


class Context:
    """Computes batches of at most *capacity* tokens in at most *sequences* sequences.

    Used only by the thread that made it.

    Args:
        flash_attention: `FLASH_ATTENTION_ON`, `FLASH_ATTENTION_OFF` or `FLASH_ATTENTION_AUTO`.

    Raises:
        ModelLoadError: llama.cpp has not enough memory, or refuses the settings.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        capacity: int,
        sequences: int,
        pooling: Pooling,
        threads: int,
        flash_attention: int,
    ) -> None:
        self._model = model
        self._pooling = pooling
        self.sequences = min(sequences, capacity)
        # llama.cpp plans its graph for a multiple of the sequences, and with mean pooling aborts
        # if that is more than the capacity.
        self.capacity = -(-capacity // self.sequences) * self.sequences
        self._columns = Columns(self.capacity)
        self._handle: Any = self._open(threads=threads, flash_attention=flash_attention, outputs=0)
        self._memory: Any = lib.llama_get_memory(self._handle)
        # With causal attention no token depends on the last one, which alone is pooled. T5's
        # encoder has a memory too, but its attention is never causal.
        self._two_passes = (
            bool(self._memory)
            and not model.has_encoder
            and lib.llama_get_causal_attn(self._handle)
            and pooling in {Pooling.LAST, Pooling.RANK}
        )
        if self._two_passes:
            # Only the last token of a sequence has an output: the context need not
            # hold, nor the language-model head compute, any other.
            lib.llama_free(self._handle)
            self._handle = self._open(
                threads=threads, flash_attention=flash_attention, outputs=self.sequences
            )
            self._memory = lib.llama_get_memory(self._handle)
        encodes = model.has_encoder or not self._memory
        self._run: Any = lib.llama_encode if encodes else lib.llama_decode

    def _open(self, *, threads: int, flash_attention: int, outputs: int) -> Any:
        params = fill_params(
            lib.llama_context_default_params(),
            n_ctx=self.capacity,
            n_batch=self.capacity,
            n_ubatch=self.capacity,
            n_seq_max=self.sequences,
            n_outputs_max=outputs,
            n_threads=threads,
            n_threads_batch=threads,
            pooling_type=POOLING_TYPES[self._pooling],
            attention_type=(
                ATTENTION_BOTH_WAYS
                if self._model.architecture in BIDIRECTIONAL
                else ATTENTION_AS_DECLARED
            ),
            flash_attn_type=flash_attention,
            embeddings=True,
            kv_unified=True,
            no_perf=True,
        )
        handle = lib.llama_init_from_model(self._model.handle, params)
        if not handle:
            raise ModelLoadError(
                f"llama.cpp cannot make a context for {self.capacity} tokens: "
                + ("; ".join(take_log_lines()[-5:]) or "no reason given")
            )
        return handle

    def encode(self, sequences: Sequence[TokenIds], stop: Stop | None = None) -> Vectors:
        """Return one row per sequence, or per token if the context does not pool.

        Raises:
            StoppedError: *stop* was set; the next batch is not affected.
            EngineError: The batch would end the process, or llama.cpp failed.
        """
        self._check(sequences)
        # Kept as an attribute: llama.cpp has its address until it gets another.
        self._stop = stop or Stop()
        lib.llama_set_abort_callback(self._handle, _is_set, self._stop.address)
        if self._memory:
            lib.llama_memory_clear(self._memory, False)
        if self._two_passes:
            self._compute_last(sequences)
        else:
            self._compute(self._columns.fill(range(len(sequences)), sequences))
        if self._pooling is Pooling.NONE:
            return self._read_tokens(sum(map(len, sequences)))
        return self._read_sequences(len(sequences))

    def set_threads(self, threads: int) -> None:
        """Compute with *threads* threads from the next batch on."""
        lib.llama_set_n_threads(self._handle, threads, threads)

    def close(self) -> None:
        """Free the context."""
        lib.llama_free(self._handle)

    def _check(self, sequences: Sequence[TokenIds]) -> None:
        if not 0 < len(sequences) <= self.sequences:
            raise EngineError(
                f"the batch has {len(sequences)} sequences, allowed are 1 to {self.sequences}"
            )
        for index, ids in enumerate(sequences):
            if len(ids) == 0:
                raise EngineError("input has no tokens", index=index)
            if ids.min() < 0 or ids.max() >= self._model.vocabulary:
                raise EngineError(
                    f"a token id is outside 0 … {self._model.vocabulary - 1}", index=index
                )
        total = sum(map(len, sequences))
        if total > self.capacity:
            raise EngineError(f"the batch has {total} tokens, the limit is {self.capacity}")

    def _compute(self, batch: lib.llama_batch) -> None:
        code = self._run(self._handle, batch)
        if code == STOPPED:
            take_log_lines()
            raise StoppedError("stopped")
        if code != 0:
            reason = "; ".join(take_log_lines()[-3:])
            raise EngineError(f"llama.cpp returned {code}" + (f": {reason}" if reason else ""))

    def _compute_last(self, sequences: Sequence[TokenIds]) -> None:
        """Compute all tokens but the last without outputs, then the last: same vectors, faster."""
        rows = [row for row, ids in enumerate(sequences) if len(ids) > 1]
        if rows:
            lib.llama_set_embeddings(self._handle, False)
            self._columns.output[:] = 0
            self._compute(self._columns.fill(rows, [sequences[row][:-1] for row in rows]))
        lib.llama_set_embeddings(self._handle, True)
        self._columns.output[:] = 1
        self._compute(
            self._columns.fill(
                range(len(sequences)),
                [ids[-1:] for ids in sequences],
                [len(ids) - 1 for ids in sequences],
            )
        )

    def _read_sequences(self, rows: int) -> Vectors:
        ranks = self._pooling is Pooling.RANK
        width = self._model.scores if ranks else self._model.width
        out = np.empty((rows, width), np.float32)
        for row in range(rows):
            source = lib.llama_get_embeddings_seq(self._handle, row)
            if not source:
                raise EngineError("llama.cpp returned no vector", index=row)
            ctypes.memmove(out[row].ctypes.data, source, out[row].nbytes)
        return out

    def _read_tokens(self, tokens: int) -> Vectors:
        out = np.empty((tokens, self._model.width), np.float32)
        source = lib.llama_get_embeddings(self._handle)
        if not source:
            raise EngineError("llama.cpp returned no token vectors")
        ctypes.memmove(out.ctypes.data, source, out.nbytes)
        return out
