"""A fake engine and its tokenizer, for tests: they keep the protocols without weights.

Token ids are characters, vectors depend on the ids and on nothing else, and a text can
ask for a fault: what a faulty model does to its process, this engine does on demand.
"""

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
from embedd.tokenizers.slices import Check, no_check
from embedd.tokenizers.truncation import PairTemplate, SpecialTokens
from embedd.types import Located, Pooling, TokenIds, TokenPiece, Vectors

# Backends that are this engine's, otherwise as llama.cpp's.
FAKE_BACKENDS = tuple(replace(backend, engine="fake") for backend in LLAMA_BACKENDS)
WIDTH = 8
VOCABULARY = 1 << 16
FIRST, LAST = 1, 2
MAX_BATCH_TOKENS = 64
MAX_SEQUENCES = 16

# Characters of the private use area, so that no text has them by chance.
KILL = "\ue000"  # crashes the process while computing
NOT_A_NUMBER = "\ue001"  # gives a vector with NaN
ZERO = "\ue002"  # gives a vector of norm 0
SLOW = "\ue003"  # takes `SLOW_SECONDS` more
KILL_FIRST_BACKEND = "\ue004"  # crashes the process on the first backend only
HANG = "\ue005"  # computes until it is stopped
UNSTOPPABLE = "\ue006"  # computes for ever, also when it is stopped
ASLEEP = "\ue007"  # waits until it is stopped, and computes nothing
ENDLESS = "\ue008"  # tokenizes until nothing waits for the answer
UNENDING = "\ue009"  # tokenizes for ever
SLOW_SECONDS = 0.2
# Computing over so many bytes releases the interpreter's lock, as a real engine does.
WORK = bytes(1 << 20)


class FakeTokenizer:
    """A tokenizer whose token ids are characters; see the module."""

    special_tokens = SpecialTokens(prefix=(FIRST,), suffix=(LAST,))
    pair_template = PairTemplate(prefix=(FIRST,), middle=(LAST,), suffix=(LAST,))
    vocabulary_size = VOCABULARY

    @classmethod
    def load(cls, spec: ModelSpec) -> Self:
        """As `LlamaTokenizer.load`; a spec whose path does not exist cannot be loaded."""
        _check_path(spec)
        return cls()

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        add_special: bool = True,
        parse_special: bool = True,
        check: Check = no_check,
    ) -> list[TokenIds]:
        """See `Tokenizer.tokenize`; `FIRST` and `LAST` are special tokens as characters too."""
        check()
        while any(ENDLESS in text or UNENDING in text for text in texts):
            if not any(UNENDING in text for text in texts):
                check()
            zlib.crc32(WORK)
        first, last = ([FIRST], [LAST]) if add_special else ([], [])
        ids = [[ord(c) % VOCABULARY for c in text] for text in texts]
        if not parse_special:
            ids = [[one for one in row if one not in (FIRST, LAST)] for row in ids]
        return [np.array([*first, *row, *last], np.int32) for row in ids]

    def locate(
        self, texts: Sequence[str], *, parse_special: bool = True, check: Check = no_check
    ) -> list[Located]:
        """See `Tokenizer.locate`."""
        rows = self.tokenize(texts, add_special=False, parse_special=parse_special, check=check)
        located: list[Located] = []
        for text, row in zip(texts, rows, strict=True):
            kept = [
                place
                for place, letter in enumerate(text)
                if parse_special or ord(letter) not in (FIRST, LAST)
            ]
            starts = np.array(kept, np.int32)
            located.append((row, np.stack((starts, starts + 1), axis=1)))
        return located

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


class FakeEngine:
    """An engine whose vectors follow from the token ids; see the module."""

    def __init__(self, spec: ModelSpec, backend: Backend, *, batch_tokens: int) -> None:
        self._backend = backend
        self._table = np.random.default_rng(7).standard_normal((VOCABULARY, WIDTH), np.float32)
        self.tokenizer = FakeTokenizer()
        self.info = ModelInfo(
            width=WIDTH,
            limit=spec.context_length,
            pooling=spec.pooling,
            special_tokens=FakeTokenizer.special_tokens,
            vocabulary=VOCABULARY,
            max_batch_tokens=batch_tokens,
            max_sequences=MAX_SEQUENCES,
            engine="fake",
            backend=backend.name,
            pair_template=FakeTokenizer.pair_template,
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
        _check_path(spec)
        report(1.0)
        return cls(spec, backend, batch_tokens=batch_tokens or MAX_BATCH_TOKENS)

    def replicate(self) -> "FakeEngine":
        """See `Engine.replicate`; nothing here changes, so one serves all threads."""
        return self

    def set_threads(self, threads: int) -> None:
        """See `Engine.set_threads`; no effect."""

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
            if len(ids) > self.info.limit:
                raise EngineError(f"a sequence of {len(ids)} tokens", index=index)
            if ids.min() < 0 or ids.max() >= VOCABULARY:
                raise EngineError(f"a token id is outside 0 … {VOCABULARY - 1}", index=index)
        if stop:
            raise StoppedError("stopped")
        self._fail_on_demand(np.concatenate(sequences), stop)
        if (pooling or self.info.pooling) is Pooling.NONE:
            return np.concatenate([self._attend(ids) for ids in sequences])
        return np.stack([self._pool(ids, pooling or self.info.pooling) for ids in sequences])

    def close(self) -> None:
        """See `Engine.close`; no effect."""

    def _fail_on_demand(self, ids: TokenIds, stop: Stop | None) -> None:
        if ord(KILL) in ids or (ord(KILL_FIRST_BACKEND) in ids and self._backend.name == "llama"):
            signal.raise_signal(signal.SIGSEGV)
        if ord(SLOW) in ids:
            time.sleep(SLOW_SECONDS)
        while ord(ASLEEP) in ids:
            if stop:
                raise StoppedError("stopped")
            time.sleep(0.01)
        while ord(HANG) in ids or ord(UNSTOPPABLE) in ids:
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
        """Vectors that depend on all tokens and their positions, as those of an encoder."""
        rows: Vectors = self._table[ids]
        positions = np.arange(1, len(ids) + 1, dtype=np.float32)[:, np.newaxis]
        context: Vectors = (rows * positions).sum(axis=0) / positions.sum()
        return rows + context


def _check_path(spec: ModelSpec) -> None:
    if not spec.path.exists():
        raise ModelLoadError(f"no such file: {spec.path.name}")
