"""Workers without processes, for the supervisor and the queue above them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedd.engine.backends import LLAMA_BACKENDS, Backend
from embedd.engine.host.exit_status import Death
from embedd.engine.host.process import Encoded, StuckError, WorkerDiedError
from embedd.engine.host.supervisor import Supervisor
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tuning.settings import ONE_REPLICA, Tuning
from embedd.errors import EngineError
from embedd.metrics import DeathReason, Metrics
from embedd.tokenizers.truncation import SpecialTokens
from embedd.types import Pooling, TokenIds, TokenPiece, Vectors

KILLS, REFUSED, REFUSED_UNNAMED, STUCK = 66, 67, 68, 69  # token ids that do what they say
MAX_BATCH_TOKENS, MAX_SEQUENCES = 8, 4

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
    frame=SpecialTokens(prefix=(), suffix=()),
    vocabulary=100,
    max_batch_tokens=MAX_BATCH_TOKENS,
    max_sequences=MAX_SEQUENCES,
    engine="fake",
    backend="",
)


def to_ids(*ids: int) -> TokenIds:
    return np.array(ids, np.int32)


def expected_vectors(sequences: Sequence[TokenIds], pooling: Pooling | None = None) -> Vectors:
    """What the workers of this workshop compute: a vector tells its sequence."""
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
    answer: "asyncio.Future[Encoded]"
    urgent: bool = False
    alone: bool = False


class FakeWorker:
    """Keeps `embedd.engine.host.supervisor.Worker`; computes one batch after the other."""

    def __init__(self, workshop: "Workshop", pid: int) -> None:
        self.pid = pid
        self.died_computing = False
        self.backend = ""
        self.batches: list[Batch] = []
        self.closed = False
        self._workshop = workshop
        self.death: Death | None = None

    async def load(
        self,
        spec: ModelSpec,
        *,
        backend: Backend,
        threads: int,
        tuning: Tuning = ONE_REPLICA,
        tolerance: float | None = None,
        patience: float | None = None,
        report: Callable[[float], None] = lambda _share: None,
    ) -> ModelInfo:
        self.tuning, self.tolerance = tuning, tolerance
        await self._workshop.load(backend)
        self.backend = backend.name
        return replace(INFO, max_batch_tokens=tuning.batch_tokens or MAX_BATCH_TOKENS)

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        await asyncio.sleep(0)
        self._refuse_if_dead()
        self._workshop.tokenized.append(len(texts))
        if any(chr(KILLS) in text for text in texts):
            self.die()
            self._refuse_if_dead()
        return [to_ids(*map(ord, text)) for text in texts]

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        self._refuse_if_dead()
        return ["".join(map(chr, ids.tolist())).encode() for ids in sequences]

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        self._refuse_if_dead()
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
    ) -> Encoded:
        self._refuse_if_dead()
        answer = asyncio.get_running_loop().create_future()
        batch = Batch(sequences, pooling, answer, urgent, alone)
        passed = [one for one in self.batches[1:] if urgent and not one.urgent]
        self.batches.insert(self.batches.index(passed[0]) if passed else len(self.batches), batch)
        if self._workshop.automatic:
            asyncio.get_running_loop().call_soon(self.compute)
        try:
            return await batch.answer
        except asyncio.CancelledError:
            if batch in self.batches:  # as a process that was told to abort it
                self.batches.remove(batch)
            raise

    async def close(self) -> None:
        self.closed = True
        self.die(computing=False)

    def compute(self) -> None:
        """The batch whose turn it is."""
        if not self.batches:
            return
        batch = self.batches[0]
        tokens = [set(ids.tolist()) for ids in batch.sequences]
        if any(KILLS in ids for ids in tokens):
            self.die()
            return
        if sum(map(len, batch.sequences)) > self._workshop.memory:
            self.die(of_memory=True)
            return
        self.batches.pop(0)
        if any(STUCK in ids for ids in tokens):
            batch.answer.set_exception(StuckError("took too long"))
            return
        for index, ids in enumerate(tokens):
            if ids & {REFUSED, REFUSED_UNNAMED}:
                named = index if REFUSED in ids else None
                batch.answer.set_exception(EngineError("rubbish", index=named))
                return
        self._workshop.computed.append(len(batch.sequences))
        vectors = expected_vectors(batch.sequences, batch.pooling)
        batch.answer.set_result(Encoded(vectors=vectors, seconds=0.0))

    def die(self, *, computing: bool = True, of_memory: bool = False) -> None:
        """The process ends; if it was *computing*, the first batch is suspect."""
        reason = DeathReason.MEMORY if of_memory else DeathReason.KILLED
        self.death = Death("SIGKILL", reason=reason)
        self.died_computing = computing and bool(self.batches)
        for index, batch in enumerate(self.batches):
            if not batch.answer.done():
                started = computing and index == 0
                error = WorkerDiedError(self.death, started=started, alone=started)
                batch.answer.set_exception(error)
        self.batches.clear()

    def _refuse_if_dead(self) -> None:
        if self.death is not None:
            raise WorkerDiedError(self.death)


class Workshop:
    """Starts workers, and remembers what they did.

    Args:
        automatic: Batches are computed at once; else when the test says so.

    Attributes:
        faults: What loading on a backend fails with.
        delays: Seconds that were waited before restarts.
        memory: Tokens of a batch above which it runs out of memory.
        computed: Sequences in each batch that was computed.
        tokenized: Texts in each call of `FakeWorker.tokenize`.
    """

    def __init__(self, *, automatic: bool = True) -> None:
        self.automatic = automatic
        self.metrics = Metrics()
        self.tuning = ONE_REPLICA
        self.workers: list[FakeWorker] = []
        self.faults: dict[str, Exception] = {}
        self.delays: list[float] = []
        self.computed: list[int] = []
        self.tokenized: list[int] = []
        self.now = 0.0
        self.memory = 10_000
        self.may_load = asyncio.Event()
        self.may_load.set()

    @property
    def worker(self) -> FakeWorker:
        """The present one."""
        return self.workers[-1]

    async def start(self) -> FakeWorker:
        self.workers.append(FakeWorker(self, pid=1 + len(self.workers)))
        return self.worker

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
            tolerance=1e-4,
            backends=backends,
            sleep=self.sleep,
            now=lambda: self.now,
        )
