"""A model that serves: texts in chunks, one more try after a death, the end."""

import pytest

from embedd.cache import VectorCache
from embedd.engine.host.process import WorkerDiedError
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.model import CHUNK_CHARACTERS, CHUNK_TEXTS, ServedModel
from embedd.errors import ModelLoadError
from embedd.metrics import Metrics
from tests.unit.engine.workshop import INFO, KILLS, SPEC, Workshop, to_ids


async def load(workshop: Workshop) -> ServedModel:
    return await ServedModel.load(
        SPEC,
        start=workshop.start,
        cores=CoreBudget(1),
        cache=VectorCache(0),
        metrics=Metrics().of_model("a"),
        max_waiting_tokens=10_000,
    )


async def test_it_shows_its_workers_facts() -> None:
    workshop = Workshop()
    model = await load(workshop)
    assert (model.info, model.pid, model.unhealthy_reason) == (INFO, 1, None)


async def test_a_model_that_does_not_load_leaves_no_worker() -> None:
    workshop = Workshop()
    workshop.faults = {"llama": ModelLoadError("bad file")}
    with pytest.raises(ModelLoadError):
        await load(workshop)
    assert all(worker.closed for worker in workshop.workers)


async def test_many_texts_travel_in_chunks_and_come_back_in_order() -> None:
    workshop = Workshop()
    model = await load(workshop)
    texts = [chr(100 + number % 1000) for number in range(2 * CHUNK_TEXTS + 1)]
    ids = await model.tokenize(texts)
    assert [chr(one[0]) for one in ids] == texts
    assert workshop.tokenized == [CHUNK_TEXTS, CHUNK_TEXTS, 1]


async def test_long_texts_travel_alone() -> None:
    workshop = Workshop()
    model = await load(workshop)
    long = "x" * CHUNK_CHARACTERS
    await model.tokenize([long, "a", "b", long + "y", "c"])
    assert workshop.tokenized == [1, 2, 1, 1]


async def test_no_texts_need_no_worker() -> None:
    workshop = Workshop()
    model = await load(workshop)
    assert await model.tokenize([]) == []
    assert workshop.tokenized == []


async def test_a_worker_that_died_of_something_else_costs_a_tokenization_nothing() -> None:
    workshop = Workshop()
    model = await load(workshop)
    workshop.worker.die()
    [ids] = await model.tokenize(["a"])
    assert ids.tolist() == [ord("a")]


async def test_a_text_that_kills_the_tokenizer_fails_after_two_tries() -> None:
    workshop = Workshop()
    model = await load(workshop)
    with pytest.raises(WorkerDiedError):
        await model.tokenize([chr(KILLS)])
    assert workshop.tokenized == [1, 1]
    assert len(await model.tokenize(["a"])) == 1


async def test_close_ends_the_worker() -> None:
    workshop = Workshop()
    model = await load(workshop)
    await model.close()
    assert workshop.worker.closed


async def test_ids_become_text_also_after_a_death() -> None:
    workshop = Workshop()
    model = await load(workshop)
    workshop.worker.die()
    assert await model.detokenize([to_ids(ord("a"))], special=True) == [b"a"]
    workshop.worker.die()
    assert await model.token_pieces(to_ids(ord("a"))) == [(b"a", False)]
