"""A test double that keeps the `Engine` protocol without weights.

Token ids are characters, vectors depend on the ids and on nothing else, and a text can
ask for a fault: what a poisoned model does to its process, this engine does on demand.
"""

import os
import signal
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import numpy as np

from embedd.engine.backends import LLAMA_BACKENDS, Backend
from embedd.engine.protocol import Stop, StoppedError, check_ids
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.errors import EngineError, ModelLoadError
from embedd.tokenizers.truncation import PairTemplate, SpecialTokens
from embedd.types import Pooling, TokenIds, TokenPiece, Vectors

# Backends that are this engine's, otherwise as llama.cpp's.
FAKE_BACKENDS = tuple(replace(backend, engine="fake") for backend in LLAMA_BACKENDS)
WIDTH = 8
VOCABULARY = 1 << 16
FIRST, LAST = 1, 2
MAX_BATCH_TOKENS = 64
MAX_SEQUENCES = 16

# Characters of the private use area, so that no text has them by chance.
KILL = "\ue000"  # ends the process while computing
NOT_A_NUMBER = "\ue001"  # gives a vector with NaN
ZERO = "\ue002"  # gives a vector of norm 0
SLOW = "\ue003"  # takes `SLOW_SECONDS` more
KILL_FIRST_BACKEND = "\ue004"  # ends the process on the first backend only
HANG = "\ue005"  # computes until it is stopped
DEAF = "\ue006"  # computes for ever
SLOW_SECONDS = 0.2
# Over so many bytes the interpreter's lock is given up, as by an engine that computes.
WORK = bytes(1 << 20)


class FakeEngine:
    """See the module."""

    def __init__(self, spec: ModelSpec, backend: Backend, *, batch_tokens: int) -> None:
        self._backend = backend
        self._table = np.random.default_rng(7).standard_normal((VOCABULARY, WIDTH), np.float32)
        self._info = ModelInfo(
            width=WIDTH,
            limit=spec.context_length,
            pooling=spec.pooling,
            frame=SpecialTokens(prefix=(FIRST,), suffix=(LAST,)),
            vocabulary=VOCABULARY,
            max_batch_tokens=batch_tokens,
            max_sequences=MAX_SEQUENCES,
            engine="fake",
            backend=backend.name,
            pair=PairTemplate(prefix=(FIRST,), middle=(LAST,), suffix=(LAST,)),
            labels=("",) if spec.pooling is Pooling.RANK else (),
        )

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
        """As `LlamaEngine.load`; a spec whose path does not exist cannot be loaded."""
        del threads, replicas
        if not spec.path.exists():
            raise ModelLoadError(f"no such file: {spec.path.name}")
        report(1.0)
        return cls(spec, backend, batch_tokens=batch_tokens or MAX_BATCH_TOKENS)

    @property
    def info(self) -> ModelInfo:
        """Facts that do not change while the model is loaded."""
        return self._info

    def replicate(self) -> "FakeEngine":
        """See `Engine.replicate`; nothing here changes, so one serves all threads."""
        return self

    def set_threads(self, threads: int) -> None:
        """Nothing here computes in threads."""

    @classmethod
    def load_vocabulary(cls, spec: ModelSpec) -> Self:
        """As `LlamaVocabulary.load`."""
        return cls.load(
            spec, Backend(name="", extra_buffers=False, flash_attention=False), threads=1
        )

    def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        """See `Tokenizer.tokenize`; characters below the third spell special tokens."""
        first, last = ([FIRST], [LAST]) if add_special else ([], [])
        ids = [[ord(c) % VOCABULARY for c in text] for text in texts]
        if not parse_special:
            ids = [[one for one in row if one not in (FIRST, LAST)] for row in ids]
        return [np.array([*first, *row, *last], np.int32) for row in ids]

    def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """See `Tokenizer.detokenize`."""
        pieces = [self.token_pieces(ids) for ids in sequences]
        return [
            b"".join(piece.text for piece in row if special or not piece.is_special)
            for row in pieces
        ]

    def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """See `Tokenizer.token_pieces`."""
        check_ids(ids, VOCABULARY)
        names = {FIRST: b"[CLS]", LAST: b"[SEP]"}
        return [
            TokenPiece(names.get(one) or chr(one).encode("utf-8", "replace"), one in names)
            for one in ids.tolist()
        ]

    def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        stop: Stop | None = None,
    ) -> Vectors:
        """See `Engine.encode`."""
        if not 0 < len(sequences) <= MAX_SEQUENCES:
            raise EngineError(f"a batch of {len(sequences)} sequences; 1 to {MAX_SEQUENCES} fit")
        for index, ids in enumerate(sequences):
            if len(ids) == 0:
                raise EngineError("input has no tokens", index=index)
            if len(ids) > self._info.limit:
                raise EngineError(f"a sequence of {len(ids)} tokens", index=index)
            if ids.min() < 0 or ids.max() >= VOCABULARY:
                raise EngineError(f"a token id is outside 0 … {VOCABULARY - 1}", index=index)
        if stop:
            raise StoppedError("stopped")
        self._fail_on_demand(np.concatenate(sequences), stop)
        if (pooling or self._info.pooling) is Pooling.NONE:
            return np.concatenate([self._attend(ids) for ids in sequences])
        return np.stack([self._pool(ids, pooling or self._info.pooling) for ids in sequences])

    def close(self) -> None:
        """Nothing to give back."""

    def _fail_on_demand(self, ids: TokenIds, stop: Stop | None) -> None:
        if ord(KILL) in ids or (ord(KILL_FIRST_BACKEND) in ids and self._backend.name == "llama"):
            os.kill(os.getpid(), signal.SIGKILL)
        if ord(SLOW) in ids:
            time.sleep(SLOW_SECONDS)
        while ord(HANG) in ids or ord(DEAF) in ids:
            if stop and ord(HANG) in ids:
                raise StoppedError("stopped")
            zlib.crc32(WORK)

    def _pool(self, ids: TokenIds, pooling: Pooling) -> Vectors:
        rows = self._attend(ids)
        if pooling is Pooling.RANK:
            return np.asarray(rows.mean(axis=0)[:1])
        if ord(NOT_A_NUMBER) in ids:
            return np.full(WIDTH, np.nan, np.float32)
        if ord(ZERO) in ids:
            return np.zeros(WIDTH, np.float32)
        if pooling is Pooling.CLS:
            return np.asarray(rows[0])
        if pooling is Pooling.LAST:
            return np.asarray(rows[-1])
        return np.asarray(rows.mean(axis=0))

    def _attend(self, ids: TokenIds) -> Vectors:
        """Every token's vector knows all tokens and their positions, as in an encoder."""
        rows: Vectors = self._table[ids]
        positions = np.arange(1, len(ids) + 1, dtype=np.float32)[:, np.newaxis]
        context: Vectors = (rows * positions).sum(axis=0) / positions.sum()
        return rows + context
