"""Test doubles: small, readable, in the place of slow or real things."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Sequence, Sized

from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.tokenizers.truncation import SpecialTokens
from embedd.types import EmbedResult, Pooling, TokenIds, TokenPiece


class Timer:
    """A timer of `Clock`."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """Time that a test moves by hand; keeps `embedd.scheduler.records.Clock`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Timer, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer:
        timer = Timer()
        entry = (self.now + delay, next(self._order), timer, lambda: callback(*args))
        heapq.heappush(self._timers, entry)
        return timer

    def advance(self, seconds: float) -> None:
        """Move on and fire what is due, in order."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now, _, timer, callback = heapq.heappop(self._timers)
            if not timer.cancelled:
                callback()
        self.now = end

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has moved on by *seconds*."""
        woken = asyncio.Event()
        self.call_later(seconds, woken.set)
        await woken.wait()

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


class FakeModel:
    """A loaded model that computes nothing; keeps `embedd.scheduler.records.Loaded`.

    ``may_close`` holds `close` back until it is set.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.pid = 1
        self.waiting_tokens = 0
        self.waiting_requests = 0
        self.cores = 1
        self.is_calibrated = False
        self.unhealthy_reason: str | None = None
        self.closed = False
        self.may_close = asyncio.Event()
        self.may_close.set()

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(
            width=2,
            limit=512,
            pooling=self.spec.pooling,
            frame=SpecialTokens(prefix=(), suffix=()),
            vocabulary=1000,
            max_batch_tokens=256,
            max_sequences=32,
            engine="fake",
            backend="llama",
        )

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        raise NotImplementedError

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        raise NotImplementedError

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        raise NotImplementedError

    async def embed(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        store: bool = True,
    ) -> EmbedResult:
        raise NotImplementedError

    async def close(self) -> None:
        await self.may_close.wait()
        self.closed = True


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
