"""The queue of one loaded model: admission, batches over all requests, retries."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeAlias

import numpy as np

from embedd.engine.host.errors import StuckError, WorkerDiedError
from embedd.engine.host.supervisor import Supervisor
from embedd.engine.serving.batcher import Batch, Batcher, Waiting, choose_lane
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.quarantine import Quarantine
from embedd.engine.serving.throughput import Throughput
from embedd.engine.spec import ModelInfo
from embedd.errors import (
    DeadlineError,
    EmbeddError,
    EngineError,
    OverloadedError,
    ShuttingDownError,
    WorkerUnavailableError,
)
from embedd.metrics import ModelMetrics, Overload
from embedd.types import (
    ComputedBy,
    EmbedResult,
    Pooling,
    Priority,
    Schedule,
    Timings,
    TokenIds,
    Vectors,
)

log = logging.getLogger(__name__)

# One is computed, the next waits in the worker: a replica never waits for Python.
IN_FLIGHT_PER_REPLICA = 2
# Worker deaths while a batch was computed after which it is split to find the input at fault.
MAX_DEATHS_OF_A_BATCH = 2
# Worker deaths after which an input fails that was never computed alone.
MAX_DEATHS_OF_AN_INPUT = 4
# Worker deaths with a cause from outside while a batch was computed after which its requests fail.
MAX_INTERRUPTIONS = 5
AT_ONCE = Schedule()
NOT_COMPUTED = ComputedBy("", "")


@dataclass(slots=True, eq=False, kw_only=True)
class Job(Waiting):
    """The sequences of one request on their way through the queue.

    Args:
        ends: Where the vectors of each sequence end in the result: one row for each sequence,
            or one for each of its tokens.
        done: Gets the vectors, or the first error.
        admitted: When it was admitted, by the queue's clock.
        deadline: When its client stops waiting, by the same clock.

    Attributes:
        started: When its first batch was taken; None before.
        vectors: The result, filled sequence by sequence.
        computed_by: For each sequence what computed it, filled likewise.
        missing: Sequences without vectors.
    """

    sequences: Sequence[TokenIds]
    ends: Sequence[int]
    done: asyncio.Future[Vectors]
    admitted: float
    deadline: float | None
    started: float | None = None
    vectors: Vectors | None = None
    computed_by: list[ComputedBy] = field(init=False)
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        Waiting.__post_init__(self)  # slots=True makes another class: no bare super()
        self.missing = len(self.sequences)
        self.computed_by = [NOT_COMPUTED] * self.missing

    def fail(self, error: EmbeddError) -> None:
        """Fail the request, unless it has failed already."""
        if not self.done.done():
            self.done.set_exception(error)

    def fail_input(self, row: int, error: EngineError | str) -> None:
        """Fail the request; the error names the input *row*."""
        self.fail(_error_of_input(error, row))

    def deliver(self, row: int, vectors: Vectors, by: ComputedBy) -> None:
        """Store the vectors of the sequence *row*; with the last one the request is done."""
        if self.vectors is None:
            self.vectors = np.empty((self.ends[-1], vectors.shape[1]), np.float32)
        self.vectors[self.ends[row] - len(vectors) : self.ends[row]] = vectors
        self.computed_by[row] = by
        self.missing -= 1
        if self.missing == 0 and not self.done.done():
            self.done.set_result(self.vectors)


Entry: TypeAlias = tuple[Job, int]  # a sequence of a batch: its request and the row there


class BatchQueue:
    """Admit the sequences of many requests and send them to the worker in batches.

    Args:
        cores: Entered while this model has something to compute.
        max_wait: Seconds after which the first batch of a request must be able to start; a
            request that would have to wait longer is refused whole.
        quarantine: Inputs of the model that are refused, because they ended or hung a worker.
        clock: Present time in seconds; deadlines are by it.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        cores: CoreBudget,
        metrics: ModelMetrics,
        max_wait: float,
        quarantine: Quarantine | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._supervisor = supervisor
        self._quarantine = Quarantine() if quarantine is None else quarantine
        self._metrics = metrics
        self._cores = cores
        self._max_wait = max_wait
        self._clock = clock
        self._throughput = Throughput()
        self._batcher: Batcher[Job] = Batcher()
        self._batches: dict[asyncio.Task[None], Batch[Job]] = {}  # in the worker
        self._bulk_batches = 0  # of `_batches`, those that urgent ones may pass
        self._tokens = 0  # of `_batches`
        self._pumping = False  # `_pump` was scheduled
        self._notes: set[asyncio.Task[None]] = set()  # that send the worker its share of cores
        self._closed = False
        self._searches = 0  # batches that are being split to find a killing input

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait for a batch."""
        return self._batcher.tokens

    @property
    def waiting_requests(self) -> int:
        """Requests that have such tokens."""
        return len(self._batcher)

    async def embed(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None,
        schedule: Schedule = AT_ONCE,
    ) -> EmbedResult:
        """Return the vectors of *sequences*, none of them empty; all are admitted or none.

        The result has them as the model computed them, and the times of queue and compute.
        A cancelled call leaves the queue at once, and the worker stops computing for it.

        Raises:
            OverloadedError: It would have to wait too long.
            DeadlineError: It would not be computed before its deadline.
            EngineError: A sequence cannot be computed or is quarantined; ``index`` is its row.
            ModelLoadError: The worker died too often.
            ShuttingDownError: `close` was called.
        """
        if not sequences:
            vectors = np.empty((0, self._info.width), np.float32)
            return EmbedResult(vectors=vectors, tokens=(), timings=Timings())
        job = self._admit(sequences, pooling, schedule)
        try:
            vectors = await job.done
        except BaseException:
            self._abandon(job)
            raise
        finally:
            self._batcher.remove(job)
        now = self._clock()
        started = now if job.started is None else job.started
        timings = Timings(queue=started - job.admitted, compute=now - started)
        return EmbedResult(
            vectors=vectors, computed_by=job.computed_by, tokens=job.lengths, timings=timings
        )

    async def close(self) -> None:
        """Stop computing; requests that wait fail with `ShuttingDownError`."""
        self._closed = True
        for job in list(self._batcher):
            job.fail(ShuttingDownError())
            self._batcher.remove(job)
        for task in self._batches:
            task.cancel()
        if self._batches:
            await asyncio.wait(self._batches)
        self._cores.leave(self)

    @property
    def _info(self) -> ModelInfo:
        return self._supervisor.info

    def _admit(
        self, sequences: Sequence[TokenIds], pooling: Pooling | None, schedule: Schedule
    ) -> Job:
        if self._closed:
            raise ShuttingDownError
        self._refuse_quarantined(sequences, pooling)
        lengths = list(map(len, sequences))
        is_bulk = schedule.priority is Priority.BULK
        now = self._clock()
        info = self._info
        most = info.max_batch_tokens
        self._refuse_waiting(lengths, most, is_bulk=is_bulk, deadline=schedule.deadline, now=now)
        per_token = (pooling or info.pooling) is Pooling.NONE
        job = Job(
            sequences=sequences,
            lengths=lengths,
            pooling=pooling,
            ends=list(accumulate(lengths)) if per_token else range(1, len(lengths) + 1),
            is_bulk=is_bulk,
            done=asyncio.get_running_loop().create_future(),
            admitted=now,
            deadline=schedule.deadline,
        )
        self._batcher.add(job, max_tokens=most)
        self._pump_soon()
        return job

    def _refuse_waiting(
        self,
        lengths: Sequence[int],
        most: int,
        *,
        is_bulk: bool,
        deadline: float | None,
        now: float,
    ) -> None:
        """Refuse a request that would have to wait too long for those before it.

        Args:
            most: Tokens of a batch.
        """
        lane = choose_lane(
            tokens=sum(lengths), sequences=len(lengths), is_bulk=is_bulk, max_tokens=most
        )
        ahead = self._batcher.count_ahead(lane, most) + self._tokens
        restart = self._supervisor.restart_seconds
        wait = restart + ahead / self._throughput.rate
        if deadline is not None and now + wait > deadline:
            self._metrics.late.inc()
            raise DeadlineError(wait=wait)
        if wait > self._max_wait:
            self._metrics.overloads[Overload.WAIT].inc()
            after = f", after the restart of the worker in {restart:.0f} s" if restart else ""
            raise OverloadedError(
                f"{ahead} tokens are computed first, in about {wait:.0f} s{after}; the limit is "
                f"{self._max_wait:g} s (EMBEDD_MAX_WAIT): try again later",
                retry_after=math.ceil(wait - self._max_wait),
            )

    def _is_late(self, job: Job) -> bool:
        """Return whether *job* cannot be computed before its deadline.

        On an idle model its own work is not estimated: what was measured long ago, perhaps with
        fewer cores, must not refuse a request for ever.
        """
        if job.deadline is None:
            return False
        now = self._clock()
        fresh = self._throughput.is_fresh(now)
        return now + (job.waiting / self._throughput.rate if fresh else 0.0) > job.deadline

    def _fail_late(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._metrics.late.inc()
            job.fail(DeadlineError())

    def _refuse_quarantined(self, sequences: Sequence[TokenIds], pooling: Pooling | None) -> None:
        if not self._quarantine:
            return
        for row, ids in enumerate(sequences):
            if (reason := self._quarantine.find(ids, pooling)) is not None:
                raise _error_of_input(reason, row)

    def _pump(self) -> None:
        self._pumping = False
        while self._batcher and self._has_room():
            info = self._info
            batch = self._batcher.take_batch(
                max_tokens=info.max_batch_tokens,
                max_sequences=info.max_sequences,
                padded=info.padded,
                is_late=self._is_late,
            )
            self._fail_late(batch.late)
            if not batch.items:
                continue
            now = self._clock()
            for job, _ in batch.items:
                job.started = job.started or now
            task = asyncio.create_task(self._run(batch))
            self._cores.enter(self, self._set_cores)
            self._batches[task] = batch
            self._bulk_batches += not batch.urgent
            self._tokens += batch.tokens
            task.add_done_callback(self._finish)
            if self._batcher:
                self._throughput.started(now)

    def _has_room(self) -> bool:
        """Return whether the worker can take another batch.

        Small batches do not each take a place: the worker computes together what fits. Urgent
        batches do not wait for places that bulk batches take.
        """
        info = self._info
        places = IN_FLIGHT_PER_REPLICA * info.replicas
        if self._bulk_batches and self._batcher.is_urgent:
            places += min(self._bulk_batches, info.replicas)
        return (
            len(self._batches) < places
            or self._tokens + self._batcher.tokens <= places * info.max_batch_tokens
        )

    def _pump_soon(self) -> None:
        """Call `_pump` after the requests that arrive together, so that they share a batch."""
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _finish(self, task: asyncio.Task[None]) -> None:
        batch = self._batches.pop(task)
        self._bulk_batches -= not batch.urgent
        self._tokens -= batch.tokens
        self._throughput.finished(batch.tokens, self._clock(), waits=bool(self._batcher))
        if self._batcher and not self._closed:
            self._pump_soon()
        if not self._batches and not self._batcher:
            self._cores.leave(self)

    def _abandon(self, job: Job) -> None:
        """Cancel the batches of *job*, whose client left, that compute for no other request."""
        if job.started is None:  # of thousands that leave at once most have not begun
            return
        for task, batch in self._batches.items():
            if task.done() or task.cancelling():  # it has ended, or is counted already
                continue
            if all(other.done.done() for other, _ in batch.items):
                self._metrics.aborted_batches.inc()
                task.cancel()

    def _set_cores(self, count: int) -> None:
        task = asyncio.create_task(self._supervisor.set_cores(count))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _run(self, batch: Batch[Job]) -> None:
        try:
            await self._compute(batch.items, urgent=batch.urgent)
        except EmbeddError as error:
            _fail_all(batch.items, error)
        except asyncio.CancelledError:
            _fail_all(batch.items, ShuttingDownError())
            raise
        except Exception:
            # A bug of ours must not leave a request waiting for ever.
            log.exception("batch failed")
            _fail_all(batch.items, EngineError("internal error"))

    async def _compute(
        self, entries: list[Entry], *, urgent: bool, deaths: int = 0, searching: bool = False
    ) -> None:
        """Deliver the vectors of every entry, or fail the job whose input cannot be computed.

        Args:
            deaths: How often the worker died while it computed these entries.
            searching: One of them is at fault, and it is not known which.

        Raises:
            WorkerUnavailableError: Workers were ended from outside again and again.
        """
        interruptions = 0
        while entries := [(job, row) for job, row in entries if not job.done.done()]:
            worker = self._supervisor.worker
            try:
                vectors, seconds = await worker.encode(
                    [job.sequences[row] for job, row in entries],
                    entries[0][0].pooling,
                    urgent=urgent,
                    # Batches computed together with it would be suspected too.
                    alone=deaths > 0 or searching,
                )
            except StuckError as error:
                self._metrics.stuck_batches.inc()
                interruptions += error.is_external
                limit_interruptions(interruptions, error)
                deaths += not error.is_external
                if deaths >= MAX_DEATHS_OF_A_BATCH and not error.is_external:
                    await self._split(entries, deaths, error)
                    return
            except WorkerDiedError as error:
                self._throughput.interrupt()
                await self._supervisor.revive(worker, counts=self._searches == 0)
                if error.is_external:
                    interruptions += error.started
                    limit_interruptions(interruptions, error)
                    continue
                deaths += _counts(error, entries)
                if _is_split(error, entries, deaths):
                    await self._split(entries, deaths, error)
                    return
            except EngineError as error:
                if error.index is None:
                    await self._split(entries, deaths, error)
                    return
                job, row = entries[error.index]
                job.fail_input(row, error)
            else:
                self._supervisor.mark_healthy()
                self._metrics.computed(
                    tokens=sum(job.lengths[row] for job, row in entries),
                    sequences=len(entries),
                    seconds=seconds,
                )
                by = ComputedBy(worker.info.engine, worker.info.backend)
                _deliver(entries, vectors, by)
                return

    async def _split(self, entries: list[Entry], deaths: int, error: EngineError) -> None:
        """Halve the batch until the input at fault is alone; only that input fails."""
        if len(entries) == 1:
            [(job, row)] = entries
            self._quarantine.isolate(job.sequences[row], job.pooling, error)
            job.fail_input(row, error)
            return
        middle = len(entries) // 2
        self._searches += 1
        try:
            for half in (entries[:middle], entries[middle:]):
                await self._compute(half, urgent=False, deaths=deaths, searching=True)
        finally:
            self._searches -= 1


def _counts(error: WorkerDiedError, entries: list[Entry]) -> bool:
    """Return whether one of *entries* may be at fault for the death."""
    return error.started and not _can_shrink(error, entries)


def _is_split(error: WorkerDiedError, entries: list[Entry], deaths: int) -> bool:
    """Return whether *entries* are halved, or fail if one is left, after so many *deaths*."""
    if _can_shrink(error, entries):
        return True
    # Beside an input that is alone in its batch another replica may have computed the one at
    # fault.
    shared = len(entries) == 1 and not error.alone
    limit = MAX_DEATHS_OF_AN_INPUT if shared else MAX_DEATHS_OF_A_BATCH
    return error.started and deaths >= limit


def _can_shrink(error: WorkerDiedError, entries: list[Entry]) -> bool:
    """Return whether a smaller batch may fit into memory: then no input of it is at fault.

    Batches that had not begun are as large: they are split at once as well.
    """
    return error.is_out_of_memory and len(entries) > 1


def _error_of_input(error: EngineError | str, row: int) -> EngineError:
    return EngineError(f"{error} (input {row})", index=row)


def limit_interruptions(count: int, error: EngineError) -> None:
    """Raise an error if the last of *count* interruptions from outside was one too many.

    Raises:
        WorkerUnavailableError: It was.
    """
    if count == MAX_INTERRUPTIONS:
        raise WorkerUnavailableError(
            f"{error}, {count} times while it worked on this request: try again later"
        ) from error


def _deliver(entries: list[Entry], vectors: Vectors, by: ComputedBy) -> None:
    per_sequence = len(vectors) == len(entries)
    start = 0
    for job, row in entries:
        end = start + (1 if per_sequence else job.lengths[row])
        job.deliver(row, vectors[start:end], by)
        start = end


def _fail_all(entries: list[Entry], error: EmbeddError) -> None:
    for job, _ in entries:
        job.fail(error)
