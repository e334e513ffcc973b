"""Workers without processes, for the supervisor and the queue above them.

`tests.contract.test_worker` runs on `FakeWorker` and on the real `WorkerProcess`.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedd.engine.backends import LLAMA_BACKENDS, Backend
from embedd.engine.host.errors import StuckError, WorkerDiedError
from embedd.engine.host.heartbeat import Heartbeat
from embedd.engine.host.process import WorkerProcess
from embedd.engine.host.supervisor import Supervisor
from embedd.engine.ipc.messages import Load
from embedd.engine.protocol import check_ids
from embedd.engine.settings import ONE_REPLICA
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tokenizer_place import TokenizerPlace, TokenizerVerdict
from embedd.errors import EngineError
from embedd.metrics import DeathReason, Metrics
from embedd.tokenizers.truncation import SpecialTokens
from embedd.types import Located, Pooling, TokenIds, TokenPiece, Vector, Vectors
from tests.fakes import Clock

KILLS, REFUSED, REFUSED_UNNAMED, STUCK = 66, 67, 68, 69  # token ids that do what they say
MAX_BATCH_TOKENS, MAX_SEQUENCES = 8, 4
VOCABULARY = 2048  # token ids are the codes of characters

SPEC = ModelSpec(
    name="tiny",
    digest="sha256:0",
    path=Path("/models/tiny"),
    pooling=Pooling.MEAN,
    context_length=64,
    vocabulary=100,
    width=2,
    weights=1,
)
INFO = ModelInfo(
    width=2,
    limit=64,
    pooling=Pooling.MEAN,
    special_tokens=SpecialTokens(prefix=(), suffix=()),
    vocabulary=VOCABULARY,
    max_batch_tokens=MAX_BATCH_TOKENS,
    max_sequences=MAX_SEQUENCES,
    engine="fake",
    backend="llama",
)


def to_ids(*ids: int) -> TokenIds:
    return np.array(ids, np.int32)


def expected_vectors(sequences: Sequence[TokenIds], pooling: Pooling | None = None) -> Vectors:
    """What a `FakeWorker` computes: a vector tells its sequence."""
    if pooling is Pooling.NONE:
        rows = [(int(token), len(ids)) for ids in sequences for token in ids]
    else:
        rows = [(int(ids.sum()), len(ids)) for ids in sequences]
    return np.array(rows, np.float32).reshape(-1, 2)


@dataclass(eq=False)
class Batch:
    """What a worker was asked to compute and has not."""

    sequences: Sequence[TokenIds]
    pooling: Pooling | None
    answer: "asyncio.Future[tuple[Vectors, float]]"
    urgent: bool = False
    alone: bool = False


class FakeWorker(WorkerProcess):
    """A worker without a process, which computes one batch after the other."""

    def __init__(self, workers: "FakeWorkers", pid: int) -> None:
        # Not that of `WorkerProcess`: there is no socket, no board and no watchdog.
        self._pid = pid
        self._workers = workers
        self.death: WorkerDiedError | None = None
        self.died_computing = False
        self.backend = ""
        self.cores = 0
        self.place: TokenizerPlace | None = None
        self.batches: list[Batch] = []
        self.closed = False
        self._heartbeat = Heartbeat()
        self._answered = None
        self._calls = {}
        self.sample = np.ones(2, np.float32)

    @property
    def pid(self) -> int:
        return self._pid

    async def load(
        self,
        load: Load,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as `WorkerProcess.load`
        report: Callable[[float], None] = lambda _share: None,
    ) -> ModelInfo:
        self._refuse_if_dead()
        self.sample = self._workers.samples.get(load.backend.name, self.sample)
        self.tuning, self.crosscheck = load.tuning, load.crosscheck
        self.cores, self.backend = load.cores, load.backend.name
        self.place = load.tokenizer
        self._build_tokenizer(load)
        report(0.0)
        await self._workers.load(load.backend)
        report(1.0)
        self.info = replace(
            INFO,
            backend=load.backend.name,
            replicas=load.tuning.replicas,
            max_batch_tokens=load.tuning.batch_tokens or MAX_BATCH_TOKENS,
            tokenizer=self.tokenizer.name,
        )
        return self.info

    def _build_tokenizer(self, load: Load) -> None:
        """Find out what the test says of the model's own tokenizer, or use what is known."""
        builds = load.tokenizer in (None, TokenizerPlace.WORKER)
        if self._workers.dies_loading or (builds and self._workers.dies_building):
            self.die(computing=False)
            self._refuse_if_dead()
        if builds and self._workers.verdict is not None:
            self.tokenizer = self._workers.verdict
        elif load.tokenizer is not None:
            self.tokenizer = TokenizerVerdict(place=load.tokenizer)

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        await asyncio.sleep(0)
        self._refuse_if_dead()
        self._workers.tokenized.append(len(texts))
        if self._workers.kills_tokenizers or any(chr(KILLS) in text for text in texts):
            self.die(from_outside=self._workers.kills_tokenizers)
            self._refuse_if_dead()
        return [to_ids(*(min(ord(one), VOCABULARY - 1) for one in text)) for text in texts]

    async def locate(self, texts: Sequence[str], *, parse_special: bool = True) -> list[Located]:
        rows = await self.tokenize(texts, add_special=False, parse_special=parse_special)
        return [
            (ids, np.stack((places := np.arange(len(ids)), places + 1), axis=1)) for ids in rows
        ]

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        self._refuse_if_dead()
        for ids in sequences:
            check_ids(ids, VOCABULARY)
        return ["".join(map(chr, ids.tolist())).encode() for ids in sequences]

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        self._refuse_if_dead()
        check_ids(ids, VOCABULARY)
        return [TokenPiece(chr(one).encode(), is_special=False) for one in ids.tolist()]

    async def set_cores(self, count: int) -> None:
        self.cores = count

    async def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None,
        *,
        urgent: bool = False,
        alone: bool = False,
    ) -> tuple[Vectors, float]:
        self._refuse_if_dead()
        answer = asyncio.get_running_loop().create_future()
        batch = Batch(sequences, pooling, answer, urgent, alone)
        passed = [one for one in self.batches[1:] if urgent and not one.urgent]
        self.batches.insert(self.batches.index(passed[0]) if passed else len(self.batches), batch)
        if self._workers.automatic:
            asyncio.get_running_loop().call_soon(self.compute)
        try:
            return await batch.answer
        except asyncio.CancelledError:
            if batch in self.batches:  # as a process that was asked to abort it
                self.batches.remove(batch)
            raise

    async def close(self) -> None:
        self.closed = True
        if self.death is None:
            self._finish("exit status 0", DeathReason.EXITED)

    def compute(self) -> None:
        """Compute the batch whose turn it is."""
        if not self.batches:
            return
        batch = self.batches[0]
        if any(KILLS in ids for ids in batch.sequences):
            self.die()
            return
        if sum(map(len, batch.sequences)) > self._workers.memory:
            self.die(of_memory=True)
            return
        self.batches.pop(0)
        error = find_fault(batch.sequences)
        if error is not None:
            batch.answer.set_exception(error)
            return
        self._workers.computed.append(len(batch.sequences))
        batch.answer.set_result((expected_vectors(batch.sequences, batch.pooling), 0.0))

    def die(
        self, *, computing: bool = True, of_memory: bool = False, from_outside: bool = False
    ) -> None:
        """The process crashes; if it was *computing*, the first batch may be the cause."""
        self.died_computing = computing and bool(self.batches)
        if of_memory:
            self._finish("SIGKILL (out of memory)", DeathReason.MEMORY)
        elif from_outside:
            self._finish("SIGKILL", DeathReason.KILLED)
        else:
            self._finish("SIGSEGV", DeathReason.CRASHED)

    def _finish(self, cause: str, reason: DeathReason) -> None:
        message = f"the worker process ended with {cause}"
        self.death = WorkerDiedError(message, reason)
        for index, batch in enumerate(self.batches):
            if not batch.answer.done():
                started = self.died_computing and index == 0
                error = WorkerDiedError(message, reason, started=started, alone=started)
                batch.answer.set_exception(error)
        self.batches.clear()

    def _refuse_if_dead(self) -> None:
        if self.death is not None:
            raise WorkerDiedError(str(self.death), self.death.reason)
        if self._answered is not None:
            raise WorkerDiedError("the worker is being replaced", DeathReason.EXITED)


def find_fault(sequences: Sequence[TokenIds]) -> EngineError | None:
    """Why a worker cannot compute these sequences."""
    if len(sequences) > MAX_SEQUENCES:
        return EngineError(f"a batch of {len(sequences)} sequences")
    for index, ids in enumerate(sequences):
        if not 0 < len(ids) <= INFO.limit or ids.min() < 0 or ids.max() >= VOCABULARY:
            return EngineError("empty, too long, or not of this vocabulary", index=index)
        if STUCK in ids:
            return StuckError("took too long")
        if REFUSED in ids:
            return EngineError("bad vector", index=index)
        if REFUSED_UNNAMED in ids:
            return EngineError("bad vector")
    return None


class FakeWorkers:
    """Starts fake workers and records what they did.

    Args:
        automatic: Batches are computed at once; else when the test says so.

    Attributes:
        faults: What loading on a backend fails with.
        delays: Seconds that were waited before restarts.
        verdict: What a worker finds out of the model's own tokenizer; None: nothing.
        kills_tokenizers: Whether every tokenizer call is interrupted by a kill from outside.
        dies_building: Whether workers die while they build that tokenizer.
        dies_loading: Whether they die in any case before they have loaded something.
        samples: What the self-test computes on a backend.
        clock: Fires the timers of the supervisor.
        memory: Tokens of a batch above which it runs out of memory.
        computed: Sequences in each batch that was computed.
        tokenized: Texts in each call of `FakeWorker.tokenize`.
    """

    def __init__(self, *, automatic: bool = True) -> None:
        self.automatic = automatic
        self.metrics = Metrics()
        self.tuning = ONE_REPLICA
        self.started: list[FakeWorker] = []
        self.faults: dict[str, Exception] = {}
        self.delays: list[float] = []
        self.computed: list[int] = []
        self.tokenized: list[int] = []
        self.now = 0.0
        self.clock = Clock()
        self.samples: dict[str, Vector] = {}
        self.memory = 10_000
        self.verdict: TokenizerVerdict | None = None
        self.dies_building = self.dies_loading = self.kills_tokenizers = False
        self.may_load = asyncio.Event()
        self.may_load.set()

    @property
    def current(self) -> FakeWorker:
        """The one that was started last."""
        return self.started[-1]

    async def start(self) -> FakeWorker:
        self.started.append(FakeWorker(self, pid=1 + len(self.started)))
        return self.current

    async def load(self, backend: Backend) -> None:
        await self.may_load.wait()
        if backend.name in self.faults:
            raise self.faults[backend.name]

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    async def open(self, backends: Sequence[Backend] = LLAMA_BACKENDS) -> Supervisor:
        """A supervisor with a loaded worker."""
        supervisor = self.make(backends)
        await supervisor.load()
        return supervisor

    def make(self, backends: Sequence[Backend] = LLAMA_BACKENDS) -> Supervisor:
        return Supervisor(
            SPEC,
            start=self.start,
            metrics=self.metrics.of_model("a"),
            threads=1,
            tuning=self.tuning,
            crosscheck=True,
            backends=backends,
            sleep=self.sleep,
            now=lambda: self.now,
            call_later=self.clock.call_later,
        )
