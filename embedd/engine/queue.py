"""The queue of one loaded model: admission, batches over all requests, retry."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from embedd.engine.base import ModelInfo
from embedd.engine.batching import choose_batch
from embedd.engine.process import Encoded, WorkerDiedError
from embedd.engine.supervisor import Supervisor
from embedd.errors import EmbeddError, EngineError, OverloadedError, ShuttingDownError
from embedd.types import Pooling, TokenIds, Vectors

log = logging.getLogger(__name__)

# One batch computes, the next lies ready in the worker: it never waits for Python.
IN_FLIGHT = 2
# Deaths of the worker that a batch may be part of before it is split to find the input
# at fault.
MAX_DEATHS_OF_A_BATCH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request: ``queue`` and ``compute`` in seconds.

    ``vectors`` has shape (sequences, width), or (all tokens, width) without pooling.
    """

    vectors: Vectors
    queue: float
    compute: float


@dataclass(slots=True, eq=False)
class Job:
    """The sequences of one request on their way through the queue."""

    pooling: Pooling | None
    rows: list[Vectors | None]
    missing: int
    done: asyncio.Future[None]
    admitted: float
    started: float | None = None

    def fail(self, error: EmbeddError) -> None:
        """The first fault fails the request."""
        if not self.done.done():
            self.done.set_exception(error)

    def deliver(self, row: int, vectors: Vectors) -> None:
        """One sequence is computed."""
        self.rows[row] = vectors
        self.missing -= 1
        if self.missing == 0 and not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One sequence that waits: row *row* of *job*."""

    job: Job
    row: int
    ids: TokenIds


class BatchQueue:
    """Takes sequences of many requests, gives the worker batches.

    Args:
        max_waiting_tokens: A request that would make more tokens wait is refused whole,
            unless nothing waits.
    """

    def __init__(self, supervisor: Supervisor, *, max_waiting_tokens: int) -> None:
        self._supervisor = supervisor
        self._max_waiting_tokens = max_waiting_tokens
        self._waiting: deque[Entry] = deque()
        self._waiting_tokens = 0
        self._batches: set[asyncio.Task[None]] = set()

    @property
    def waiting_tokens(self) -> int:
        """Tokens that no batch has taken yet."""
        return self._waiting_tokens

    async def embed(self, sequences: Sequence[TokenIds], pooling: Pooling | None) -> Outcome:
        """Vectors of all *sequences*, none of them empty; all are admitted or none.

        A cancelled call leaves the queue at once.

        Raises:
            OverloadedError: Too many tokens wait.
            EngineError: Computing failed; ``index`` is the sequence at fault.
        """
        job = self._admit(sequences, pooling)
        try:
            await job.done
        finally:
            self._forget(job)
        now = time.perf_counter()
        started = job.started or now
        rows = [row for row in job.rows if row is not None]
        per_token = (pooling or self._info.pooling) is Pooling.NONE
        vectors = np.concatenate(rows) if per_token else np.stack(rows)
        return Outcome(vectors=vectors, queue=started - job.admitted, compute=now - started)

    async def close(self) -> None:
        """Stop computing; what waits fails with `ShuttingDownError`."""
        for entry in self._waiting:
            entry.job.fail(ShuttingDownError())
        self._waiting.clear()
        for task in self._batches:
            task.cancel()
        if self._batches:
            await asyncio.wait(self._batches)

    @property
    def _info(self) -> ModelInfo:
        return self._supervisor.info

    def _admit(self, sequences: Sequence[TokenIds], pooling: Pooling | None) -> Job:
        tokens = sum(map(len, sequences))
        if self._waiting and self._waiting_tokens + tokens > self._max_waiting_tokens:
            raise OverloadedError(
                f"{self._waiting_tokens} tokens wait, {tokens} more would pass the limit "
                f"of {self._max_waiting_tokens}: try again later"
            )
        job = Job(
            pooling=pooling,
            rows=[None] * len(sequences),
            missing=len(sequences),
            done=asyncio.get_running_loop().create_future(),
            admitted=time.perf_counter(),
        )
        self._waiting.extend(Entry(job, row, ids) for row, ids in enumerate(sequences))
        self._waiting_tokens += tokens
        self._pump()
        return job

    def _forget(self, job: Job) -> None:
        if job.missing and any(entry.job is job for entry in self._waiting):
            self._waiting = deque(entry for entry in self._waiting if entry.job is not job)
            self._waiting_tokens = sum(len(entry.ids) for entry in self._waiting)

    def _pump(self) -> None:
        while self._waiting and len(self._batches) < IN_FLIGHT:
            task = asyncio.create_task(self._run(self._take_batch()))
            self._batches.add(task)
            task.add_done_callback(self._finish)

    def _take_batch(self) -> list[Entry]:
        pooling = self._waiting[0].job.pooling
        alike = takewhile(lambda entry: entry.job.pooling == pooling, self._waiting)
        count = choose_batch(
            (len(entry.ids) for entry in alike),
            max_tokens=self._info.max_batch_tokens,
            max_sequences=self._info.max_sequences,
        )
        entries = [self._waiting.popleft() for _ in range(count)]
        self._waiting_tokens -= sum(len(entry.ids) for entry in entries)
        now = time.perf_counter()
        for entry in entries:
            entry.job.started = entry.job.started or now
        return entries

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        if not task.cancelled():
            self._pump()

    async def _run(self, entries: list[Entry]) -> None:
        try:
            await self._compute(entries)
        except EmbeddError as error:
            for entry in entries:
                entry.job.fail(_of_input(error, entry))
        except asyncio.CancelledError:
            for entry in entries:
                entry.job.fail(ShuttingDownError())
            raise
        except Exception:
            # A bug of ours must not leave a request waiting for ever.
            log.exception("batch failed")
            for entry in entries:
                entry.job.fail(EngineError("internal error"))

    async def _compute(self, entries: list[Entry], deaths: int = 0) -> None:
        """Deliver every entry, or fail the job of the one that cannot be computed."""
        while entries := [entry for entry in entries if not entry.job.done.done()]:
            worker = self._supervisor.worker
            try:
                encoded = await worker.encode(
                    [entry.ids for entry in entries], entries[0].job.pooling
                )
            except WorkerDiedError as error:
                deaths += error.started
                searching = deaths > MAX_DEATHS_OF_A_BATCH
                await self._supervisor.revive(worker, suspect=error.started, counts=not searching)
                if deaths >= MAX_DEATHS_OF_A_BATCH:
                    await self._split(entries, deaths, error)
                    return
            except EngineError as error:
                if error.index is None:
                    await self._split(entries, deaths, error)
                    return
                guilty = entries[error.index]
                guilty.job.fail(_of_input(error, guilty))
            else:
                self._supervisor.prove()
                self._deliver(entries, encoded)
                return

    async def _split(self, entries: list[Entry], deaths: int, error: EngineError) -> None:
        """Halve the batch until the one input at fault is alone: that one gets the error."""
        if len(entries) == 1:
            entries[0].job.fail(_of_input(error, entries[0]))
            return
        middle = len(entries) // 2
        for half in (entries[:middle], entries[middle:]):
            await self._compute(half, deaths)

    def _deliver(self, entries: list[Entry], encoded: Encoded) -> None:
        pooling = entries[0].job.pooling or self._info.pooling
        if pooling is Pooling.NONE:
            ends = np.cumsum([len(entry.ids) for entry in entries])[:-1]
            parts = np.split(encoded.vectors, ends)
        else:
            parts = list(encoded.vectors)
        for entry, part in zip(entries, parts, strict=True):
            entry.job.deliver(entry.row, part)


def _of_input(error: EmbeddError, entry: Entry) -> EmbeddError:
    """The error as the request sees it: its own input's number instead of the batch's."""
    if not isinstance(error, EngineError):
        return error
    if error.index is None and not isinstance(error, WorkerDiedError):
        return error
    return EngineError(f"{error} (input {entry.row})", index=entry.row)
