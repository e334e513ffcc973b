"""A model that serves: texts in chunks, one more try after a death, the end."""

import asyncio
import math

import pytest

from embedd.cache import VectorCache
from embedd.engine.host import supervisor
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.model import CHUNK_CHARACTERS, CHUNK_TEXTS, ServedModel
from embedd.errors import EngineError, ModelLoadError, WorkerUnavailableError
from embedd.metrics import Metrics
from embedd.types import VectorSource
from tests.fakes import settle
from tests.unit.engine.fake_worker import (
    INFO,
    KILLS,
    MAX_BATCH_TOKENS,
    SPEC,
    FakeWorkers,
    to_ids,
)


async def load(workers: FakeWorkers, *, cache: int = 0) -> ServedModel:
    return await ServedModel.load(
        SPEC,
        start=workers.start,
        cores=CoreBudget(1),
        cache=VectorCache(cache),
        metrics=Metrics().of_model("a"),
        max_wait=math.inf,
    )


async def test_it_has_the_info_and_the_process_id_of_its_worker() -> None:
    workers = FakeWorkers()
    model = await load(workers)
    assert (model.info, model.pid, model.unhealthy_reason) == (INFO, 1, None)


async def test_a_model_that_does_not_load_leaves_no_worker() -> None:
    workers = FakeWorkers()
    workers.faults = {"llama": ModelLoadError("bad file")}
    with pytest.raises(ModelLoadError):
        await load(workers)
    assert [worker.closed for worker in workers.started] == [True]


async def test_many_texts_travel_in_chunks_and_come_back_in_order() -> None:
    workers = FakeWorkers()
    model = await load(workers)
    texts = [chr(100 + number % 1000) for number in range(2 * CHUNK_TEXTS + 1)]
    ids = await model.tokenize(texts)
    assert [chr(one[0]) for one in ids] == texts
    assert workers.tokenized == [CHUNK_TEXTS, CHUNK_TEXTS, 1]


async def test_long_texts_travel_alone() -> None:
    workers = FakeWorkers()
    model = await load(workers)
    long = "x" * CHUNK_CHARACTERS
    await model.tokenize([long, "a", "b", long + "y", "c"])
    assert workers.tokenized == [1, 2, 1, 1]


async def test_no_texts_need_no_worker() -> None:
    workers = FakeWorkers()
    model = await load(workers)
    assert await model.tokenize([]) == []
    assert workers.tokenized == []


async def test_tokenizing_goes_on_after_a_worker_died_of_something_else() -> None:
    workers = FakeWorkers()
    model = await load(workers)
    workers.current.die()
    [ids] = await model.tokenize(["a"])
    assert ids.tolist() == [ord("a")]


async def test_a_text_that_kills_the_tokenizer_fails_after_two_tries() -> None:
    workers = FakeWorkers()
    model = await load(workers)
    with pytest.raises(WorkerDiedError):
        await model.tokenize([chr(KILLS)])
    assert workers.tokenized == [1, 1]
    assert len(await model.tokenize(["a"])) == 1


async def test_close_ends_the_worker() -> None:
    workers = FakeWorkers()
    model = await load(workers)
    await model.close()
    assert workers.current.closed


async def test_ids_become_text_also_after_a_death() -> None:
    workers = FakeWorkers()
    model = await load(workers)
    workers.current.die()
    assert await model.detokenize([to_ids(ord("a"))], special=True) == [b"a"]
    workers.current.die()
    assert await model.token_pieces(to_ids(ord("a"))) == [(b"a", False)]


async def test_vectors_are_named_after_the_backends_that_computed_them() -> None:
    """A fallback takes over between two batches of one request, and keeps its own vectors."""
    workers = FakeWorkers(automatic=False)
    model = await load(workers, cache=1 << 20)
    full = [to_ids(*range(number, number + MAX_BATCH_TOKENS)) for number in (100, 200)]
    request = asyncio.create_task(model.embed(full))
    await settle()
    first, second = workers.current, workers.current.batches[1]
    first.batches.remove(second)
    first.compute()
    first.batches.insert(0, second)
    await settle()
    # As if no batch had been computed yet: then the backend may be at fault.
    model._supervisor.fallbacks._healthy = False
    first.die()
    await settle()
    workers.current.compute()
    result = await request
    assert result.served_by is not None
    assert result.served_by.engine == "fake"
    assert result.served_by.backend == "llama+llama-no-repack"
    again = asyncio.create_task(model.embed(full))
    await settle()
    workers.current.compute()
    served_by = (await again).served_by
    assert served_by is not None
    assert served_by.backend == "llama-no-repack"
    assert again.result().reused[VectorSource.CACHE] == 1, "the one of the fallback"


async def test_a_tokenizer_call_survives_kills_from_outside_until_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.0)
    workers = FakeWorkers()
    model = await load(workers)
    for _ in range(10):
        workers.current.die(from_outside=True)
        assert len(await model.tokenize(["a"])) == 1
    workers.kills_tokenizers = True
    with pytest.raises(WorkerUnavailableError, match="SIGKILL, 5 times"):
        await model.tokenize(["a"])


async def test_a_mark_of_an_input_ends_with_the_load_of_the_model() -> None:
    """The worker of the next load may have another library, or more memory."""
    workers = FakeWorkers()
    model = await load(workers)
    await model.embed([to_ids(1)])
    for started in (3, 3):  # two deaths, then it is refused
        with pytest.raises(EngineError, match="SIGSEGV"):
            await model.embed([to_ids(KILLS)])
        assert len(workers.started) == started
    await model.close()
    model = await load(workers)
    await model.embed([to_ids(1)])
    with pytest.raises(EngineError, match="SIGSEGV"):
        await model.embed([to_ids(KILLS)])
    assert len(workers.started) == 4 + 2
    await model.close()
