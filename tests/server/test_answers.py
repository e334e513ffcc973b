"""The bytes of answers in flight: clients that do not read theirs cost others nothing."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from embedd.server import errors
from tests.server.serving import OpenServer, RawClient, Reply, Served, until

ROW = 32 * 4  # bytes of a vector of the model "tiny"
BODY = b'{"model":"tiny","input":["the same","the same","the same"]}'
SIZE = 3 * ROW + len(BODY)


@asynccontextmanager
async def held_back(served: Served, count: int) -> AsyncIterator[list[asyncio.Task[Reply]]]:
    """Send *count* requests whose computation waits until the block ends."""
    await served.embed(input="x")
    [model] = served.loads.models
    model.gate.clear()
    tasks = [asyncio.create_task(served.post("/api/embed", BODY)) for _ in range(count)]
    await until(lambda: model.waiting + sum(task.done() for task in tasks) == count)
    try:
        yield tasks
    finally:
        model.gate.set()
        await asyncio.wait(tasks)


async def test_an_address_holds_half_of_the_bytes_of_answers_and_others_are_served(
    open_server: OpenServer,
) -> None:
    served: Served = await open_server(max_answers=8 * SIZE)
    other = RawClient(served.port, "127.0.0.2")
    async with held_back(served, 6) as tasks:
        refused = [task.result() for task in tasks if task.done()]
        assert [reply.status for reply in refused] == [503] * 3
        assert {reply.headers["Retry-After"] for reply in refused} == {"1"}
        await other.post(BODY)
    assert await other.status() == 200
    assert [task.result().status for task in tasks].count(200) == 3
    await other.close()


async def test_of_refusals_for_overload_the_first_is_logged(
    open_server: OpenServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "OVERLOAD_INTERVAL", math.inf)
    caplog.set_level(logging.INFO, "embedd.server")
    served: Served = await open_server(max_answers=8 * SIZE)
    async with held_back(served, 6) as tasks:
        assert [task.result().status for task in tasks if task.done()] == [503] * 3
    assert [one.__dict__["status"] for one in caplog.records] == [503]


async def test_the_only_answer_of_all_may_have_more_bytes(open_server: OpenServer) -> None:
    served: Served = await open_server(max_answers=1)
    async with held_back(served, 2) as tasks:
        assert [task.result().status for task in tasks if task.done()] == [503]
    assert [task.result().status for task in tasks].count(200) == 1


async def test_an_answer_that_is_not_read_is_held_until_its_client_leaves(
    open_server: OpenServer,
) -> None:
    served: Served = await open_server(max_answers=1)
    client = RawClient(served.port)
    texts = ",".join([f'"{"x" * 60}"'] * 1000)
    await client.post(f'{{"model":"tiny","inputs":[{texts}]}}'.encode(), path="/embed_all")
    assert await client.status() == 200
    assert (await served.embed(input="x")).status == 503
    await client.close()
    async with asyncio.timeout(60):
        while (await served.embed(input="x")).status != 200:
            await asyncio.sleep(0.01)


async def test_every_route_with_long_answers_counts_them(open_server: OpenServer) -> None:
    served: Served = await open_server(max_answers=1)
    requests: list[tuple[str, dict[str, object]]] = [
        ("/api/embed", {"input": "x"}),
        ("/api/embeddings", {"prompt": "x"}),
        ("/api/embeddings", {"input": "x"}),
        ("/v1/embeddings", {"input": "x"}),
        ("/api/v3/inference/embeddings", {"input": "x"}),
        ("/embed", {"inputs": "x"}),
        ("/embed_all", {"inputs": "x"}),
        ("/similarity", {"inputs": {"source_sentence": "x", "sentences": ["y"]}}),
        ("/embedding", {"content": "x"}),
        ("/v1/embed", {"texts": ["x"]}),
        ("/rerank", {"model": "ranker", "query": "x", "documents": ["y"]}),
        ("/rerank", {"model": "ranker", "query": "x", "texts": ["y"]}),
        ("/tokenize", {"inputs": "x"}),
        ("/tokenize", {"content": "x"}),
        ("/v1/tokenize", {"text": "x"}),
        ("/decode", {"ids": [5]}),
        ("/detokenize", {"tokens": [5]}),
        ("/v1/detokenize", {"tokens": [5]}),
    ]
    async with held_back(served, 1):
        for path, body in requests:
            refused = await served.post(path, {"model": "tiny", **body})
            assert refused.status in (429, 503), path
    for path, body in requests:
        assert (await served.post(path, {"model": "tiny", **body})).status == 200, path


@pytest.mark.parametrize("body", [BODY.replace(b"tiny", b"nope"), b'{"model":"tiny","input":5}'])
async def test_a_request_that_fails_holds_nothing(body: bytes, open_server: OpenServer) -> None:
    served: Served = await open_server(max_answers=SIZE)
    for _ in range(5):
        assert (await served.post("/api/embed", body)).status in (400, 404)
    async with held_back(served, 1) as tasks:
        pass
    assert tasks[0].result().status == 200


async def test_a_request_whose_client_leaves_holds_nothing(open_server: OpenServer) -> None:
    served: Served = await open_server(max_answers=SIZE)
    async with held_back(served, 1) as [leaving]:
        leaving.cancel()
        await until(lambda: served.loads.models[0].waiting == 0)
    assert (await served.post("/api/embed", BODY)).status == 200
