"""Test doubles: small, readable, in the place of slow or real things."""

import asyncio
import heapq
import itertools
import os
from collections.abc import Callable, Sequence, Sized

import numpy as np

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.fake import HANG, MAX_BATCH_TOKENS, MAX_SEQUENCES, FakeEngine
from embedd.engine.serving.model import ServedModel
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.worker.compute import encode_checked
from embedd.errors import EngineError, ShuttingDownError
from embedd.types import (
    EmbedResult,
    Located,
    Pooling,
    Schedule,
    ServedBy,
    Timings,
    TokenIds,
    TokenPiece,
    Vectors,
)


class Clock:
    """Time that a test moves by hand; stands for an event loop."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []

    def time(self) -> float:
        return self.now

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        timer = asyncio.TimerHandle(self.now + delay, callback, args, loop)
        heapq.heappush(self._timers, (timer.when(), next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move on and fire what is due, in order."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                timer._run()
        self.now = end

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has moved on by *seconds*."""
        woken = asyncio.Event()
        self.call_later(seconds, woken.set)
        await woken.wait()

    def count_timers(self) -> int:
        """Return how many timers were started and have not ended."""
        return len(self._timers)

    def advance_to_next(self) -> None:
        """Move on to the next timer and fire it."""
        self.advance(min(when for when, *_ in self._timers) - self.now)


MOST_TURNS = 100_000


async def settle() -> None:
    """Let everything run that can run without time passing.

    Exact: when this task runs again and nothing else is ready on the loop, every other task
    waits for a timer, a socket, a thread or an event. asyncio has no public way to ask that.
    """
    ready: Sized = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # a private part of the event loop
    for _ in range(MOST_TURNS):
        await asyncio.sleep(0)
        if not ready:
            return
    raise AssertionError("a task on the loop never waits")


class FakeModel(ServedModel):
    """A loaded model that computes in this process, with a `FakeEngine`.

    `tests.contract.test_served_model` runs on it and on a `ServedModel` with a worker.

    Attributes:
        gate: Where every batch waits; open at first.
        waiting: Batches that wait there.
        batches: How many were computed.
        may_close: Where `close` waits; set at first.
    """

    pid = os.getpid()
    waiting_tokens = 0
    cores = 1
    is_calibrated = False
    unhealthy_reason: str | None = None
    silence: str | None = None

    def __init__(self, spec: ModelSpec) -> None:
        # Not that of `ServedModel`: there is no supervisor and no queue.
        self.spec = spec
        self._engine = FakeEngine(spec, LLAMA_BACKENDS[0], batch_tokens=MAX_BATCH_TOKENS)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.batches = 0
        self._closed = asyncio.Event()
        self.may_close = asyncio.Event()
        self.may_close.set()

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    @property
    def waiting_requests(self) -> int:
        return self.waiting

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        return self._engine.tokenizer.tokenize(
            texts, add_special=add_special, parse_special=parse_special
        )

    async def locate(self, texts: Sequence[str], *, parse_special: bool = True) -> list[Located]:
        return self._engine.tokenizer.locate(texts, parse_special=parse_special)

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        return self._engine.tokenizer.detokenize(sequences, special=special)

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        return self._engine.tokenizer.token_pieces(ids)

    async def embed(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        store: bool = True,
        schedule: Schedule = Schedule(),  # noqa: B008 - a frozen value
    ) -> EmbedResult:
        parts = [np.empty((0, self.info.width), np.float32)] if not sequences else []
        for start in range(0, len(sequences), MAX_SEQUENCES):
            await self._wait(sequences[start : start + MAX_SEQUENCES])
            rows = range(start, min(start + MAX_SEQUENCES, len(sequences)))
            parts.append(self._compute(sequences, rows, pooling))
        return EmbedResult(
            vectors=np.concatenate(parts),
            tokens=list(map(len, sequences)),
            timings=Timings(compute=0.001),
            served_by=ServedBy(
                digest=self.spec.digest, engine=self.info.engine, backend=self.info.backend
            ),
        )

    async def close(self) -> None:
        await self.may_close.wait()
        self._closed.set()
        self.gate.set()

    async def _wait(self, batch: Sequence[TokenIds]) -> None:
        """Wait until the batch may be computed, for ever if it hangs.

        Raises:
            ShuttingDownError: The model was closed.
        """
        hangs = any(ord(HANG) in ids for ids in batch)
        self.waiting += 1
        try:
            await asyncio.sleep(0)
            await (self._closed if hangs else self.gate).wait()
        finally:
            self.waiting -= 1
        if self.closed:
            raise ShuttingDownError

    def _compute(
        self, sequences: Sequence[TokenIds], rows: Sequence[int], pooling: Pooling | None
    ) -> Vectors:
        """Compute the sequences *rows*; an error names the input that cannot be computed."""
        self.batches += 1
        try:
            return encode_checked(self._engine, [sequences[row] for row in rows], pooling)
        except EngineError as error:
            if error.index is None and len(rows) > 1:
                return np.concatenate([self._compute(sequences, [row], pooling) for row in rows])
            row = rows[error.index or 0]
            raise EngineError(f"{error} (input {row})", index=row) from error


class FakeLoader:
    """Loads models when the test says so.

    Attributes:
        started: Names of the models whose load has begun, in order.
        models: Every model that was handed out.
    """

    def __init__(self) -> None:
        self.started: list[str] = []
        self.models: list[FakeModel] = []
        self._gates: dict[str, asyncio.Future[None]] = {}

    async def load(self, spec: ModelSpec) -> FakeModel:
        self.started.append(spec.name)
        gate = self._gates[spec.name] = asyncio.get_running_loop().create_future()
        try:
            await gate
        finally:
            del self._gates[spec.name]
        self.models.append(FakeModel(spec))
        return self.models[-1]

    @property
    def loading(self) -> list[str]:
        """Names of the models whose load has begun and not ended."""
        return list(self._gates)

    async def finish(self, name: str) -> None:
        """The load of this model succeeds."""
        self._gates[name].set_result(None)
        await settle()

    async def fail(self, name: str, error: Exception) -> None:
        """The load of this model fails."""
        self._gates[name].set_exception(error)
        await settle()
