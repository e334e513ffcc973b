"""Worker processes for real: what they survive, what they leave, what they say at their end."""

import asyncio
import math
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from embedd.cache import VectorCache
from embedd.config import worker_environment
from embedd.engine import fake
from embedd.engine.backends import LLAMA_BACKENDS, Backend
from embedd.engine.fake import FAKE_BACKENDS
from embedd.engine.host import child, heartbeat, supervisor, watchdog
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.process import WorkerProcess
from embedd.engine.ipc.messages import Load
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.model import ServedModel
from embedd.engine.spec import ModelSpec
from embedd.errors import (
    EngineError,
    LoadTimeoutError,
    ModelLoadError,
    ShuttingDownError,
    WorkerUnavailableError,
)
from embedd.metrics import DeathReason, Metrics
from embedd.types import EmbedResult, Pooling
from tests.tiny_models import write_tiny_bert

BACKENDS = {"fake": FAKE_BACKENDS, "llama": LLAMA_BACKENDS}
WARM = FAKE_BACKENDS[0]


class Yard:
    """Starts workers and ends them all at the end."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.workers: list[WorkerProcess] = []
        self.models: list[ServedModel] = []

    def spec(self) -> ModelSpec:
        return ModelSpec(
            name="tiny",
            digest="sha256:0",
            path=self.file,
            pooling=Pooling.MEAN,
            context_length=64,
            vocabulary=0,
            width=0,
            weights=0,
        )

    def make_load(self, backend: Backend = WARM, *, cores: int = 1) -> Load:
        return Load(spec=self.spec(), backend=backend, cores=cores)

    async def start(self) -> WorkerProcess:
        self.workers.append(await WorkerProcess.start(worker_environment()))
        return self.workers[-1]

    async def start_loaded(self, engine: str = "fake", *, threads: int = 1) -> WorkerProcess:
        worker = await self.start()
        await worker.load(self.make_load(BACKENDS[engine][0], cores=threads))
        return worker

    async def serve(self) -> ServedModel:
        self.models.append(
            await ServedModel.load(
                self.spec(),
                start=self.start,
                cores=CoreBudget(1),
                cache=VectorCache(0),
                metrics=Metrics().of_model("a"),
                max_wait=math.inf,
                backends=FAKE_BACKENDS,
            )
        )
        return self.models[-1]

    async def close(self) -> None:
        for model in self.models:
            await model.close()
        for worker in self.workers:
            await worker.close()
            assert not is_running(worker.pid)


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """At the end every process is gone, whatever the test did to it."""
    file = tmp_path / "tiny.gguf"
    file.touch()
    yard = Yard(file)
    yield yard
    await yard.close()


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def wait_until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def is_computing(worker: WorkerProcess) -> bool:
    return any(map(worker._board.has, worker._calls))


async def embed(model: ServedModel, *texts: str) -> EmbedResult:
    return await model.embed(await model.tokenize(texts))


async def embed_all(
    model: ServedModel, requests: list[list[str]]
) -> list[EmbedResult | BaseException]:
    """All requests at once, after all are tokenized: their inputs share batches."""
    sequences = [await model.tokenize(texts) for texts in requests]
    return await asyncio.gather(*map(model.embed, sequences), return_exceptions=True)


def watch_closely(patch: pytest.MonkeyPatch) -> None:
    """Let the watchdog be quick, as a server's is slow."""
    for name in ("MIN_TIMEOUT", "STOP_TIMEOUT", "TOKENIZER_TIMEOUT"):
        patch.setattr(watchdog, name, 0.5)
    patch.setattr(watchdog, "TIMEOUT_FACTOR", 0.0)
    patch.setattr(watchdog, "SLOWEST_TOKENIZER", 0.0)
    patch.setattr(heartbeat, "INTERVAL", 0.1)


# What it does


async def test_a_worker_loads_tokenizes_encodes_and_ends(yard: Yard) -> None:
    worker = await yard.start()
    shares: list[float] = []
    info = await worker.load(yard.make_load(), report=shares.append)
    assert (info.engine, info.backend, info.limit, info.special_tokens.suffix) == (
        "fake",
        "llama",
        64,
        (2,),
    )
    assert shares == [0.0, 1.0]
    [ids] = await worker.tokenize(["ab"])
    assert ids.tolist() == [1, ord("a"), ord("b"), 2]
    vectors, seconds = await worker.encode([ids, ids], None)
    assert vectors.shape == (2, info.width)
    assert seconds > 0
    assert (await worker.encode([ids], Pooling.NONE))[0].shape == (4, info.width)
    assert is_running(worker.pid)
    await worker.close()
    assert not is_running(worker.pid)
    with pytest.raises(WorkerDiedError):
        await worker.tokenize(["ab"])


async def test_a_text_that_no_utf8_can_hold_is_tokenized(yard: Yard) -> None:
    worker = await yard.start_loaded()
    [ids] = await worker.tokenize(["a\ud800b"])
    assert ids.tolist() == [1, ord("a"), 0xFFFD, ord("b"), 2]


async def test_a_caller_that_leaves_during_a_batch_disturbs_no_other_answer(yard: Yard) -> None:
    worker = await yard.start_loaded()
    slow, a, b = await worker.tokenize([fake.SLOW, "a", "b"])
    leaving = asyncio.create_task(worker.encode([slow], None))
    await wait_until(lambda: is_computing(worker))
    leaving.cancel()
    there, _ = await worker.encode([a, b], None)
    back, _ = await worker.encode([b, a], None)
    assert np.array_equal(there, back[::-1])


async def test_a_batch_whose_client_left_is_no_longer_computed(yard: Yard) -> None:
    """Otherwise it would compute for ever, and later requests would wait for ever."""
    model = await yard.serve()
    expected = (await embed(model, "a", "b")).vectors
    for _ in range(2):
        leaving = asyncio.create_task(embed(model, fake.HANG))
        await wait_until(lambda: is_computing(yard.workers[0]))
        staying = asyncio.create_task(embed(model, "a", "b"))
        await asyncio.sleep(0)
        leaving.cancel()
        assert np.array_equal((await staying).vectors, expected)
    assert len(yard.workers) == 1


async def test_llama_stops_in_the_middle_of_a_batch(yard: Yard) -> None:
    """And what it computes next is right to the last bit."""
    write_tiny_bert(yard.file)
    worker = await yard.start_loaded("llama")
    [ids] = await worker.tokenize(["the cat sat on a mat"])
    expected, _ = await worker.encode([ids], None)
    large = [np.tile(ids, 8)[:64]] * 32
    batches = [asyncio.create_task(worker.encode(large, None, alone=True)) for _ in range(200)]
    await wait_until(lambda: any(batch.done() for batch in batches))
    for batch in batches:
        batch.cancel()
    again, _ = await worker.encode([ids], None)
    assert np.array_equal(again, expected)


async def test_the_users_folder_provides_no_modules(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("signal", "queue", "numpy", "embedd"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('from the wrong folder')")
    monkeypatch.chdir(tmp_path)
    await yard.start_loaded()


async def test_signals_to_the_whole_group_end_no_worker(yard: Yard) -> None:
    worker = await yard.start_loaded()
    os.kill(worker.pid, signal.SIGINT)
    os.kill(worker.pid, signal.SIGTERM)
    assert len(await worker.tokenize(["a"])) == 1


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_worker_has_as_many_threads_as_it_may_use_cores(yard: Yard, threads: int) -> None:
    write_tiny_bert(yard.file)
    worker = await yard.start_loaded("llama", threads=threads)
    # Beside those that compute: one reads the socket, one tokenizes.
    assert psutil.Process(worker.pid).num_threads() == 2 + threads


# Death


async def test_kill_9_during_a_batch_is_a_delay_and_no_error(yard: Yard) -> None:
    model = await yard.serve()
    expected = (await embed(model, "a", fake.SLOW)).vectors
    request = asyncio.create_task(embed(model, "a", fake.SLOW))
    await wait_until(lambda: is_computing(yard.workers[0]))
    os.kill(model.pid, signal.SIGKILL)
    assert np.array_equal((await request).vectors, expected)
    assert np.array_equal((await embed(model, "a", fake.SLOW)).vectors, expected)
    assert len(yard.workers) == 2
    assert model.info.backend == "llama"


async def test_an_idle_worker_that_was_killed_is_replaced(yard: Yard) -> None:
    model = await yard.serve()
    os.kill(model.pid, signal.SIGKILL)
    await wait_until(lambda: not is_running(yard.workers[0].pid))
    assert len((await embed(model, "a")).vectors) == 1


async def test_an_input_that_kills_workers_fails_its_own_request_alone(yard: Yard) -> None:
    model = await yard.serve()
    await embed(model, "a batch that shows that the backend works")
    good = [[f"text {number}"] for number in range(20)]
    expected = [(await embed(model, *texts)).vectors for texts in good]
    requests = [*good[:10], ["fine", fake.KILL, "fine"], *good[10:]]
    results = await embed_all(model, requests)
    killing = results.pop(10)
    assert isinstance(killing, EngineError)
    assert killing.index == 1
    assert str(killing) == "the worker process ended with SIGSEGV (input 1)"
    for result, vectors in zip(results, expected, strict=True):
        assert isinstance(result, EmbedResult)
        assert np.allclose(result.vectors, vectors)
    assert model.info.backend == "llama"
    assert model.unhealthy_reason is None


async def test_an_input_that_killed_workers_is_not_computed_again(yard: Yard) -> None:
    model = await yard.serve()
    await embed(model, "a batch that shows that the backend works")
    with pytest.raises(EngineError, match="SIGSEGV"):
        await embed(model, fake.KILL)
    started = len(yard.workers)
    for _ in range(3):
        with pytest.raises(EngineError, match=r"SIGSEGV \(input 1\)"):
            await embed(model, "fine", fake.KILL)
    assert len((await embed(model, "fine")).vectors) == 1
    assert len(yard.workers) == started


@pytest.mark.parametrize(
    ("text", "fault", "deaths"),
    [
        (fake.HANG, "computing took too long and was stopped", 0),
        (fake.UNSTOPPABLE, "SIGKILL: it did not stop a batch that took too long", 2),
    ],
    ids=["hangs", "cannot be stopped"],
)
async def test_an_input_that_hangs_fails_its_own_request_alone(
    text: str, fault: str, deaths: int, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch_closely(monkeypatch)
    model = await yard.serve()
    expected = (await embed(model, "a", "b")).vectors
    good, bad = await embed_all(model, [["a", "b"], ["c", text]])
    assert isinstance(good, EmbedResult)
    assert np.allclose(good.vectors, expected)
    assert isinstance(bad, EngineError)
    assert (str(bad).endswith(f"{fault} (input 1)"), bad.index) == (True, 1)
    assert len(yard.workers) >= 1 + deaths
    assert deaths or len(yard.workers) == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [(fake.NOT_A_NUMBER, "contains NaN or Inf values"), (fake.ZERO, "has zero norm")],
    ids=["not a number", "zero"],
)
async def test_a_bad_vector_is_an_error_of_its_input(yard: Yard, text: str, fault: str) -> None:
    model = await yard.serve()
    good, bad, also_good = await embed_all(model, [["a", "b"], ["a", text, "b"], ["c"]])
    assert isinstance(good, EmbedResult)
    assert isinstance(also_good, EmbedResult)
    assert isinstance(bad, EngineError)
    assert (str(bad), bad.index) == (f"embedding {fault} (input 1)", 1)
    assert len(yard.workers) == 1


async def test_a_model_whose_first_batch_kills_goes_to_the_next_backend(yard: Yard) -> None:
    model = await yard.serve()
    assert len((await embed(model, "a" + fake.KILL_FIRST_BACKEND)).vectors) == 1
    assert model.info.backend == "llama-no-repack"
    assert len(yard.workers) == 2


async def test_a_model_whose_workers_only_die_is_given_up(yard: Yard) -> None:
    model = await yard.serve()
    for number in range(2):
        with pytest.raises(EngineError, match="SIGSEGV"):
            await embed(model, fake.KILL + str(number))
        assert model.unhealthy_reason is None
    with pytest.raises(ModelLoadError, match="died 5 times without computing a batch"):
        await embed(model, fake.KILL)
    assert model.unhealthy_reason is not None
    assert not any(is_running(worker.pid) for worker in yard.workers)


# Workers that are stopped, and those that hang


def stop(worker: WorkerProcess) -> None:
    os.kill(worker.pid, signal.SIGSTOP)


async def test_a_stopped_worker_is_replaced_and_its_clients_are_answered(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was idle, tokenized or computed; no text and no backend is at fault."""
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.1)
    model = await yard.serve()
    expected = (await embed(model, fake.SLOW)).vectors
    for number in range(3):
        if number == 0:  # idle: found before anything asks for it
            stop(yard.workers[-1])
            await wait_until(lambda: model.silence is not None)
            assert model.silence == 'the worker of model "tiny" does not answer'
            await wait_until(lambda: yard.workers[0].death is not None)
            assert model.silence is None
            request = asyncio.create_task(embed(model, fake.SLOW))
        elif number == 1:  # asked to tokenize
            stop(yard.workers[-1])
            request = asyncio.create_task(embed(model, fake.SLOW))
        else:
            request = asyncio.create_task(embed(model, fake.SLOW))
            await wait_until(lambda: is_computing(yard.workers[-1]))
            stop(yard.workers[-1])
        assert np.array_equal((await request).vectors, expected)
    deaths = [worker.death for worker in yard.workers]
    assert [death.reason for death in deaths if death] == [DeathReason.STOPPED] * 3
    assert "it did not answer and used no processor" in str(deaths[0])
    assert (len(yard.workers), model.info.backend) == (4, "llama")


async def test_a_worker_that_is_stopped_for_a_moment_goes_on(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.1)
    model = await yard.serve()
    request = asyncio.create_task(embed(model, fake.SLOW))
    await wait_until(lambda: is_computing(yard.workers[0]))
    stop(yard.workers[0])
    await wait_until(lambda: model.silence is not None)
    os.kill(model.pid, signal.SIGCONT)
    assert len((await request).vectors) == 1
    await wait_until(lambda: model.silence is None)
    assert len(yard.workers) == 1


async def test_a_worker_that_is_stopped_while_it_loads_is_replaced(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.1)
    start = yard.start

    async def start_stopped() -> WorkerProcess:
        worker = await start()
        if len(yard.workers) == 1:
            stop(worker)
        return worker

    monkeypatch.setattr(yard, "start", start_stopped)
    model = await yard.serve()
    assert len((await embed(model, "a")).vectors) == 1
    assert (len(yard.workers), model.info.backend) == (2, "llama")


async def test_an_input_that_waits_for_ever_is_not_marked(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that used no processor may have been stopped from outside."""
    watch_closely(monkeypatch)
    model = await yard.serve()
    for _ in range(2):
        with pytest.raises(WorkerUnavailableError, match="5 times while it worked on this"):
            await embed(model, fake.ASLEEP)
    assert len(yard.workers) == 1


@pytest.mark.parametrize("length", [1, 2000], ids=["short", "long"])
async def test_a_tokenizer_call_that_hangs_fails_alone(
    length: int, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading thread answers a short text, and cannot be asked to stop."""
    watch_closely(monkeypatch)
    model = await yard.serve()
    expected = (await embed(model, "a")).vectors
    for text in (fake.ENDLESS, fake.UNENDING):
        hanging = asyncio.create_task(model.tokenize([text * length]))
        other = asyncio.create_task(embed(model, "a"))
        with pytest.raises(EngineError, match=r"tokenizer call (that )?took too long"):
            await hanging
        assert np.array_equal((await other).vectors, expected)
        assert np.array_equal((await embed(model, "a")).vectors, expected)
    assert len(yard.workers) == (2 if length > 1 else 3)
    assert model.info.backend == "llama"


# Loading


async def test_a_file_that_cannot_be_loaded_is_tried_once(yard: Yard) -> None:
    yard.file.unlink()
    with pytest.raises(ModelLoadError, match=r"^no such file: tiny\.gguf$"):
        await yard.serve()
    assert len(yard.workers) == 1


async def test_llama_says_why_it_refuses_a_file(yard: Yard) -> None:
    yard.file.write_bytes(b"GGUF" + bytes(100))
    worker = await yard.start()
    with pytest.raises(ModelLoadError, match=r"^llama\.cpp cannot load the model: "):
        await worker.load(yard.make_load(LLAMA_BACKENDS[0]))


async def test_a_load_without_progress_is_given_up(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "GRACE", 0.1)
    worker = await yard.start()
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(LoadTimeoutError, match='timed out loading model "tiny"'):
        await worker.load(yard.make_load(), timeout=0.1)
    # It does not even see the end of the socket.
    await worker.close()
    assert not is_running(worker.pid)


async def test_a_load_that_is_cancelled_leaves_no_process(yard: Yard) -> None:
    loading = asyncio.create_task(yard.serve())
    await wait_until(lambda: bool(yard.workers))
    loading.cancel()
    await asyncio.wait([loading])
    assert loading.cancelled()
    assert not is_running(yard.workers[0].pid)


async def test_the_error_of_a_dead_worker_names_no_folders(yard: Yard) -> None:
    """An unexpected error in one of its threads ends it."""
    worker = await yard.start()
    with pytest.raises(WorkerDiedError) as caught:
        await worker.load(yard.make_load(replace(WARM, engine="/home/me/build/ggml.c:42")))
    assert str(caught.value) == (
        "the worker process ended with exit status 1: KeyError: 'ggml.c:42'"
    )


async def test_an_interpreter_that_does_not_start_is_a_load_error(
    yard: Yard, tmp_path: Path
) -> None:
    async def start() -> WorkerProcess:
        return await WorkerProcess.start({"PYTHONHOME": str(tmp_path)})

    with pytest.raises(ModelLoadError, match="llama-safe: the worker process ended with"):
        await ServedModel.load(
            yard.spec(),
            start=start,
            cores=CoreBudget(1),
            cache=VectorCache(0),
            metrics=Metrics().of_model("a"),
            max_wait=math.inf,
            backends=FAKE_BACKENDS,
        )


async def test_a_program_that_does_not_exist_is_a_load_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ModelLoadError, match="cannot start a worker process"):
        await WorkerProcess.start({})


# The end


async def test_closing_fails_the_requests_that_wait(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "GRACE", 60.0)
    model = await yard.serve()
    sequences = await model.tokenize([fake.SLOW] * 100)
    requests = [asyncio.create_task(model.embed([ids])) for ids in sequences]
    await wait_until(lambda: is_computing(yard.workers[0]))
    await model.close()
    death = yard.workers[0].death
    assert death is not None
    assert death.reason is DeathReason.EXITED, "it has not waited for the batch, nor for a signal"
    for request in requests:
        with pytest.raises(ShuttingDownError):
            await request
    assert not is_running(yard.workers[0].pid)


async def test_workers_end_with_a_server_that_was_killed(tmp_path: Path) -> None:
    """Also one that computes: no orphan keeps a model in memory."""
    (tmp_path / "tiny.gguf").touch()
    script = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from embedd.engine import fake
        from tests.system.test_workers import Yard, embed

        async def serve():
            model = await Yard(Path(sys.argv[1])).serve()
            print(model.pid, flush=True)
            await embed(model, *[fake.SLOW] * 1000)

        asyncio.run(serve())
        """
    )
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(tmp_path / "tiny.gguf"),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert server.stdout is not None
    pid = int(await server.stdout.readline())
    assert is_running(pid)
    server.kill()
    await server.wait()
    await wait_until(lambda: not is_running(pid))


# Backends


async def test_a_model_that_fell_back_returns_and_answers_all_the_while(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "QUIET", 0.5)
    model = await yard.serve()
    await embed(model, fake.KILL_FIRST_BACKEND)
    seen: list[str] = []
    async with asyncio.timeout(60):
        while "llama" not in seen:
            result = await embed(model, f"{fake.SLOW} {len(seen)}")
            assert result.served_by is not None
            seen.append(result.served_by.backend)
    assert set(seen[:-1]) <= {"llama-no-repack"}
    assert len(yard.workers) == 3
    assert not is_running(yard.workers[1].pid)
