"""What every worker promises: the real process with the fake engine, and the fake of most tests."""

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from embedd.config import worker_environment
from embedd.engine import fake
from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.fake import FAKE_BACKENDS
from embedd.engine.host import heartbeat, watchdog
from embedd.engine.host.errors import StuckError, WorkerDiedError
from embedd.engine.host.process import WorkerProcess
from embedd.engine.ipc.messages import Load
from embedd.engine.settings import Tuning
from embedd.errors import EngineError, ModelLoadError
from embedd.metrics import DeathReason
from embedd.types import Pooling, TokenIds, Vectors
from tests.contract.conftest import make_spec
from tests.fakes import settle
from tests.unit.engine import fake_worker
from tests.unit.engine.fake_worker import FakeWorker, FakeWorkers, to_ids

TUNING = Tuning(replicas=1, batch_tokens=48)
TEXTS = ["ab", "c", "def"]


class Kind(ABC):
    """How a test makes one kind of worker do what it must survive.

    Attributes:
        kills, bad, stuck, slow: Token ids that end the process, get no vector, compute for
            ever, and take a moment.
    """

    load: Load
    kills: TokenIds
    bad: TokenIds
    stuck: TokenIds
    slow: TokenIds

    @abstractmethod
    async def start(self) -> WorkerProcess:
        """A worker that has loaded nothing yet."""

    @abstractmethod
    def remove_model(self) -> None:
        """From now on the model cannot be loaded."""

    @abstractmethod
    def kill(self, worker: WorkerProcess) -> None:
        """End the process from outside."""

    @abstractmethod
    def hold(self) -> None:
        """Batches are computed when `go_on` says so, where that can be said."""

    @abstractmethod
    async def wait_until_computing(self, worker: WorkerProcess) -> None:
        """Wait until a batch has begun."""

    @abstractmethod
    async def go_on(self) -> None:
        """Compute what was held back."""


class Process(Kind):
    """Processes with the fake engine."""

    kills, bad, stuck, slow = (
        to_ids(1, ord(one), 2) for one in (fake.KILL, fake.NOT_A_NUMBER, fake.HANG, fake.SLOW)
    )

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()
        self.load = Load(
            spec=make_spec(path, Pooling.MEAN), backend=FAKE_BACKENDS[0], tuning=TUNING
        )

    async def start(self) -> WorkerProcess:
        return await WorkerProcess.start(worker_environment())

    def remove_model(self) -> None:
        self._path.unlink()

    def kill(self, worker: WorkerProcess) -> None:
        os.kill(worker.pid, signal.SIGKILL)

    def hold(self) -> None:
        """The slow batch does that."""

    async def wait_until_computing(self, worker: WorkerProcess) -> None:
        await wait_until(lambda: any(map(worker._board.has, worker._calls)))

    async def go_on(self) -> None:
        """It does so by itself."""


class Fake(Kind):
    """`FakeWorker`."""

    kills, bad, stuck, slow = map(
        to_ids, (fake_worker.KILLS, fake_worker.REFUSED, fake_worker.STUCK, 1)
    )

    def __init__(self) -> None:
        self._workers = FakeWorkers()
        self.load = Load(spec=fake_worker.SPEC, backend=LLAMA_BACKENDS[0], tuning=TUNING)

    async def start(self) -> WorkerProcess:
        return await self._workers.start()

    def remove_model(self) -> None:
        self._workers.faults = {"llama": ModelLoadError("no such file")}

    def kill(self, worker: WorkerProcess) -> None:
        assert isinstance(worker, FakeWorker)
        worker.die()

    def hold(self) -> None:
        self._workers.automatic = False

    async def wait_until_computing(self, worker: WorkerProcess) -> None:
        assert isinstance(worker, FakeWorker)
        await wait_until(lambda: bool(self._workers.current.batches))

    async def go_on(self) -> None:
        self._workers.automatic = True
        while self._workers.current.batches:
            self._workers.current.compute()
            await settle()


async def wait_until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture(params=["process", "fake"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    return Fake() if request.param == "fake" else Process(tmp_path / "tiny.gguf")


@pytest.fixture
async def worker(kind: Kind) -> AsyncIterator[WorkerProcess]:
    """A worker with the model."""
    worker = await kind.start()
    await worker.load(kind.load)
    yield worker
    await worker.close()


async def encode(worker: WorkerProcess, *sequences: TokenIds) -> Vectors:
    vectors, _ = await worker.encode(sequences, None)
    return vectors


# Loading


async def test_a_load_says_what_the_model_is_and_how_far_it_is(kind: Kind) -> None:
    worker = await kind.start()
    shares: list[float] = []
    info = await worker.load(kind.load, timeout=20, report=shares.append)
    assert worker.info == info
    assert (info.engine, info.backend, info.replicas) == ("fake", "llama", 1)
    assert (info.limit, info.pooling, info.max_batch_tokens) == (64, Pooling.MEAN, 48)
    assert shares[-1] == 1.0
    assert worker.pid > 0
    assert worker.death is None
    await worker.close()


async def test_a_model_that_cannot_be_loaded_is_an_error_and_no_death(kind: Kind) -> None:
    worker = await kind.start()
    kind.remove_model()
    with pytest.raises(ModelLoadError, match="no such file"):
        await worker.load(kind.load)
    assert worker.death is None
    await worker.close()


# Tokens


async def test_texts_become_ids_in_order_and_come_back(worker: WorkerProcess) -> None:
    rows = await worker.tokenize(TEXTS, add_special=False)
    assert [row.dtype for row in rows] == [np.int32] * 3
    assert await worker.detokenize(rows, special=True) == [text.encode() for text in TEXTS]
    frame = worker.info.special_tokens
    framed = await worker.tokenize(TEXTS)
    assert [row.tolist() for row in framed] == [
        [*frame.prefix, *row.tolist(), *frame.suffix] for row in rows
    ]
    assert await worker.detokenize(framed, special=False) == [text.encode() for text in TEXTS]
    assert await worker.tokenize([]) == []


async def test_tokens_are_located_in_each_text(worker: WorkerProcess) -> None:
    located = await worker.locate([*TEXTS, ""])
    rows = await worker.tokenize([*TEXTS, ""], add_special=False)
    for text, ids, (found, places) in zip([*TEXTS, ""], rows, located, strict=True):
        assert found.tolist() == ids.tolist()
        assert places.tolist() == [[at, at + 1] for at in range(len(text))]
    assert await worker.locate([]) == []


async def test_a_caller_that_leaves_its_texts_disturbs_no_other(worker: WorkerProcess) -> None:
    leaving = [asyncio.create_task(worker.tokenize(["ab" * 5000] * 50)) for _ in range(2)]
    leaving.append(asyncio.create_task(worker.locate(["ab" * 5000] * 50)))  # type: ignore[arg-type]  # of another result
    await settle()
    for one in leaving:
        one.cancel()
    await asyncio.wait(leaving)
    rows = await worker.tokenize(TEXTS, add_special=False)
    assert await worker.detokenize(rows, special=True) == [text.encode() for text in TEXTS]
    assert worker.death is None


async def test_pieces_make_up_the_text(worker: WorkerProcess) -> None:
    [ids] = await worker.tokenize(["ab"], add_special=False)
    assert await worker.token_pieces(ids) == [(b"a", False), (b"b", False)]


@pytest.mark.parametrize("bad", [-1, 1 << 30])
async def test_an_id_outside_the_vocabulary_has_no_text(worker: WorkerProcess, bad: int) -> None:
    with pytest.raises(EngineError, match="token id"):
        await worker.detokenize([to_ids(5), to_ids(bad)], special=True)
    with pytest.raises(EngineError, match="token id"):
        await worker.token_pieces(to_ids(bad))
    assert len(await worker.tokenize(TEXTS)) == 3


# Vectors


async def test_a_batch_has_a_row_for_each_sequence_in_order(worker: WorkerProcess) -> None:
    sequences = await worker.tokenize(TEXTS)
    vectors, seconds = await worker.encode(sequences, None)
    assert vectors.shape == (3, worker.info.width)
    assert vectors.dtype == np.float32
    assert seconds >= 0
    alone = np.concatenate([await encode(worker, ids) for ids in sequences])
    assert np.allclose(vectors, alone)
    assert not np.allclose(vectors[0], vectors[1])


async def test_without_pooling_there_is_a_row_for_each_token(worker: WorkerProcess) -> None:
    vectors, _ = await worker.encode([to_ids(5, 6), to_ids(7)], Pooling.NONE)
    assert vectors.shape == (3, worker.info.width)


async def test_every_one_of_many_batches_gets_its_own_rows(worker: WorkerProcess) -> None:
    batches = [[to_ids(number), to_ids(number, 5)] for number in range(10, 60)]
    found = await asyncio.gather(*(worker.encode(batch, None) for batch in batches))
    for batch, (vectors, _) in zip(batches, found, strict=True):
        assert np.allclose(vectors, await encode(worker, *batch))


async def test_the_number_of_cores_changes_no_vector(worker: WorkerProcess) -> None:
    expected = await encode(worker, to_ids(5, 6))
    await worker.set_cores(3)
    assert np.array_equal(await encode(worker, to_ids(5, 6)), expected)


async def test_a_batch_is_refused_with_the_number_of_its_bad_sequence(
    kind: Kind, worker: WorkerProcess
) -> None:
    good = to_ids(5)
    for bad in (kind.bad, to_ids(), to_ids(*[5] * 65), to_ids(-1), to_ids(1 << 30)):
        with pytest.raises(EngineError) as caught:
            await worker.encode([good, bad, good], None)
        assert caught.value.index == 1
        assert not isinstance(caught.value, WorkerDiedError | StuckError)
    assert worker.death is None
    assert len(await encode(worker, good)) == 1


async def test_a_batch_that_is_refused_as_a_whole_names_no_sequence(worker: WorkerProcess) -> None:
    with pytest.raises(EngineError) as caught:
        await worker.encode([to_ids(5)] * (worker.info.max_sequences + 1), None)
    assert caught.value.index is None
    assert len(await encode(worker, to_ids(5))) == 1


async def test_an_urgent_batch_overtakes_one_that_waits(kind: Kind, worker: WorkerProcess) -> None:
    kind.hold()
    order: list[str] = []

    async def compute(name: str, ids: TokenIds, *, urgent: bool) -> None:
        await worker.encode([ids], None, urgent=urgent)
        order.append(name)

    first = asyncio.create_task(compute("first", kind.slow, urgent=False))
    await kind.wait_until_computing(worker)
    later = [
        asyncio.create_task(compute("bulk", to_ids(5), urgent=False)),
        asyncio.create_task(compute("urgent", to_ids(6), urgent=True)),
    ]
    await settle()
    await kind.go_on()
    await asyncio.gather(first, *later)
    assert order == ["first", "urgent", "bulk"]


async def test_a_caller_that_leaves_disturbs_no_other(kind: Kind, worker: WorkerProcess) -> None:
    expected = await encode(worker, to_ids(5))
    kind.hold()
    leaving = asyncio.create_task(worker.encode([kind.slow], None))
    await kind.wait_until_computing(worker)
    staying = asyncio.create_task(encode(worker, to_ids(5)))
    await settle()
    leaving.cancel()
    await settle()
    await kind.go_on()
    assert np.array_equal(await staying, expected)
    assert leaving.cancelled()


async def test_a_batch_that_takes_too_long_is_stopped(
    kind: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "MIN_TIMEOUT", 0.1)
    monkeypatch.setattr(watchdog, "TIMEOUT_FACTOR", 0.0)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)
    with pytest.raises(StuckError, match="took too long"):
        await encode(worker, kind.stuck)
    assert worker.death is None
    monkeypatch.undo()  # on a busy machine others take a tenth of a second too
    assert len(await encode(worker, to_ids(5))) == 1


# Death


async def check_dead(worker: WorkerProcess) -> None:
    """Every call fails at once."""
    for call in (
        worker.tokenize(["a"]),
        worker.locate(["a"]),
        worker.detokenize([to_ids(5)], special=True),
        worker.token_pieces(to_ids(5)),
        encode(worker, to_ids(5)),
    ):
        with pytest.raises(WorkerDiedError) as caught:
            await call
        assert not caught.value.started


async def test_an_input_that_kills_fails_its_batch_and_all_that_wait(
    kind: Kind, worker: WorkerProcess
) -> None:
    killing, waiting = await asyncio.gather(
        worker.encode([to_ids(5), kind.kills], None, alone=True),
        worker.encode([to_ids(5)], None, alone=True),
        return_exceptions=True,
    )
    assert isinstance(killing, WorkerDiedError)
    assert isinstance(waiting, WorkerDiedError)
    assert (killing.started, killing.alone, killing.reason) == (True, True, DeathReason.CRASHED)
    assert (waiting.started, waiting.alone) == (False, False)
    assert str(killing) == "the worker process ended with SIGSEGV"
    assert worker.died_computing
    assert worker.death is not None
    assert worker.death.reason is DeathReason.CRASHED
    await check_dead(worker)


async def test_a_worker_that_is_killed_while_idle_did_not_die_computing(
    kind: Kind, worker: WorkerProcess
) -> None:
    await encode(worker, to_ids(5))
    kind.kill(worker)
    await wait_until(lambda: worker.death is not None)
    assert not worker.died_computing
    await check_dead(worker)


async def test_a_worker_that_is_closed_fails_what_waits_and_stays_closed(
    kind: Kind, worker: WorkerProcess
) -> None:
    kind.hold()
    waiting = asyncio.create_task(encode(worker, kind.slow))
    await kind.wait_until_computing(worker)
    await worker.close()
    with pytest.raises(WorkerDiedError, match="exit status 0"):
        await waiting
    assert worker.death is not None
    assert worker.death.reason is DeathReason.EXITED
    await check_dead(worker)
    await worker.close()
