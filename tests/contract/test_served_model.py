"""What every served model promises: one with a worker, and the fake that most tests use."""

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from embedd.cache import VectorCache
from embedd.config import worker_environment
from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.fake import (
    FAKE_BACKENDS,
    FIRST,
    HANG,
    LAST,
    MAX_BATCH_TOKENS,
    MAX_SEQUENCES,
    NOT_A_NUMBER,
    VOCABULARY,
    ZERO,
    FakeEngine,
)
from embedd.engine.host.process import WorkerProcess
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.model import CHUNK_TEXTS, ServedModel
from embedd.engine.spec import ModelSpec
from embedd.errors import EngineError, ShuttingDownError
from embedd.metrics import Metrics
from embedd.types import Pooling, TokenIds, Vectors
from tests.contract.conftest import CONTEXT, make_spec
from tests.fakes import FakeModel, settle

TEXTS = ["the cat sat", "on a mat", "x", "and then it slept", ""]
Load = Callable[[Pooling], Awaitable[ServedModel]]


async def load_with_worker(spec: ModelSpec) -> ServedModel:
    return await ServedModel.load(
        spec,
        start=functools.partial(WorkerProcess.start, worker_environment()),
        cores=CoreBudget(1),
        cache=VectorCache(0),
        metrics=Metrics().of_model("tiny"),
        max_wait=math.inf,
        backends=FAKE_BACKENDS,
    )


@pytest.fixture(params=["worker", "fake"])
async def load(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Load]:
    """Loads the model with a pooling; closes all at the end."""
    (tmp_path / "tiny").touch()
    loaded: list[ServedModel] = []

    async def load_one(pooling: Pooling) -> ServedModel:
        spec = make_spec(tmp_path / "tiny", pooling)
        loaded.append(FakeModel(spec) if request.param == "fake" else await load_with_worker(spec))
        return loaded[-1]

    yield load_one
    for model in loaded:
        await model.close()


@pytest.fixture
async def model(load: Load) -> ServedModel:
    return await load(Pooling.MEAN)


def to_ids(text: str) -> TokenIds:
    return np.array([FIRST, *map(ord, text), LAST], np.int32)


def expected_vectors(model: ServedModel, *texts: str, pooling: Pooling | None = None) -> Vectors:
    spec = make_spec(Path("tiny"), model.info.pooling)
    engine = FakeEngine(spec, LLAMA_BACKENDS[0], batch_tokens=MAX_BATCH_TOKENS)
    return np.concatenate([engine.encode([to_ids(text)], pooling) for text in texts])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_model_that_has_nothing_to_do_says_so(model: ServedModel) -> None:
    info = model.info
    assert (info.engine, info.backend, info.limit) == ("fake", "llama", CONTEXT)
    assert info.max_batch_tokens == MAX_BATCH_TOKENS
    assert model.pid > 0
    assert (model.waiting_tokens, model.waiting_requests) == (0, 0)
    assert model.cores == 1
    assert not model.is_calibrated
    assert model.unhealthy_reason is None


# Tokens


async def test_texts_become_ids_in_order_however_many_there_are(model: ServedModel) -> None:
    texts = [f"text {number}" for number in range(2 * CHUNK_TEXTS + 1)]
    rows = await model.tokenize(texts)
    assert [row.tolist() for row in rows] == [to_ids(text).tolist() for text in texts]
    assert {row.dtype for row in rows} == {np.dtype(np.int32)}
    assert await model.tokenize([]) == []


async def test_special_tokens_are_added_and_parsed_as_asked(model: ServedModel) -> None:
    [bare] = await model.tokenize(["a"], add_special=False)
    assert bare.tolist() == [ord("a")]
    [parsed] = await model.tokenize(["a\x02b"], add_special=False)
    assert parsed.tolist() == [ord("a"), LAST, ord("b")]
    [text] = await model.tokenize(["a\x02b"], add_special=False, parse_special=False)
    assert LAST not in text


async def test_ids_become_text_and_pieces(model: ServedModel) -> None:
    ids = to_ids("aé")
    assert await model.detokenize([ids], special=False) == ["aé".encode()]
    assert await model.detokenize([ids, ids], special=True) == ["[CLS]aé[SEP]".encode()] * 2
    assert await model.token_pieces(ids) == [
        (b"[CLS]", True),
        (b"a", False),
        ("é".encode(), False),
        (b"[SEP]", True),
    ]


async def test_an_id_outside_the_vocabulary_is_an_error(model: ServedModel) -> None:
    ids = np.array([VOCABULARY], np.int32)
    with pytest.raises(EngineError, match="outside"):
        await model.detokenize([ids], special=True)
    with pytest.raises(EngineError, match="outside"):
        await model.token_pieces(ids)


# Vectors


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS, Pooling.LAST, Pooling.RANK])
async def test_vectors_are_the_engines_in_the_order_of_the_sequences(
    load: Load, pooling: Pooling
) -> None:
    model = await load(pooling)
    result = await model.embed([to_ids(text) for text in TEXTS])
    assert np.allclose(result.vectors, expected_vectors(model, *TEXTS), atol=1e-6)
    assert result.vectors.dtype == np.float32
    assert list(result.tokens) == [len(text) + 2 for text in TEXTS]
    assert result.timings.queue >= 0
    assert result.timings.compute > 0
    assert result.served_by is not None
    assert result.served_by.digest == make_spec(Path("tiny"), pooling).digest
    assert (result.served_by.engine, result.served_by.backend) == ("fake", "llama")


async def test_without_pooling_every_token_has_a_vector(model: ServedModel) -> None:
    result = await model.embed([to_ids(text) for text in TEXTS], Pooling.NONE)
    expected = expected_vectors(model, *TEXTS, pooling=Pooling.NONE)
    assert np.allclose(result.vectors, expected, atol=1e-6)
    assert len(result.vectors) == sum(result.tokens)


async def test_no_sequences_give_no_vectors(model: ServedModel) -> None:
    result = await model.embed([])
    assert result.vectors.shape == (0, model.info.width)
    assert list(result.tokens) == []


async def test_a_request_may_have_more_sequences_than_a_batch(model: ServedModel) -> None:
    texts = [chr(ord("a") + number % 26) * (number % 7) for number in range(3 * MAX_SEQUENCES)]
    result = await model.embed([to_ids(text) for text in texts], store=False)
    assert np.allclose(result.vectors, expected_vectors(model, *texts), atol=1e-6)


async def test_requests_at_the_same_time_get_their_own_vectors(model: ServedModel) -> None:
    results = await asyncio.gather(*(model.embed([to_ids(text)]) for text in TEXTS))
    found = np.concatenate([result.vectors for result in results])
    assert np.allclose(found, expected_vectors(model, *TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * CONTEXT, f"{CONTEXT + 2} tokens"),
        (NOT_A_NUMBER, "NaN"),
        (ZERO, "zero norm"),
    ],
    ids=["too long", "not a number", "zero"],
)
@pytest.mark.parametrize("row", [0, 3, MAX_SEQUENCES + 1])
async def test_an_input_that_cannot_be_computed_is_named(
    model: ServedModel, text: str, message: str, row: int
) -> None:
    sequences = [to_ids("good") for _ in range(MAX_SEQUENCES + 2)]
    sequences[row] = to_ids(text)
    with pytest.raises(EngineError, match=message) as caught:
        await model.embed(sequences)
    assert caught.value.index == row
    assert str(caught.value).endswith(f"(input {row})")
    assert len((await model.embed([to_ids("good")])).vectors) == 1, "it serves all the same"


# Leaving and the end


async def test_a_request_that_is_cancelled_ends_at_once_and_others_go_on(
    model: ServedModel,
) -> None:
    hanging = asyncio.create_task(model.embed([to_ids(HANG)]))
    await settle()
    assert not hanging.done()
    hanging.cancel()
    await asyncio.wait([hanging], timeout=60)
    assert hanging.cancelled()
    result = await asyncio.wait_for(model.embed([to_ids("a")]), 60)
    assert np.allclose(result.vectors, expected_vectors(model, "a"), atol=1e-6)
    await until(lambda: model.waiting_requests == 0)
    assert model.waiting_tokens == 0


async def test_closing_fails_what_is_computed_and_what_comes_later(model: ServedModel) -> None:
    hanging = asyncio.create_task(model.embed([to_ids(HANG)]))
    await settle()
    await asyncio.wait_for(model.close(), 60)
    with pytest.raises(ShuttingDownError):
        await hanging
    with pytest.raises(ShuttingDownError):
        await model.embed([to_ids("a")])
    await model.close()
