"""Which models are in memory, as ``/api/ps`` lists them."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from embedd.errors import LoadTimeoutError, ModelLoadError
from tests.server.serving import OpenServer, Served, until

YEAR = 365 * 86400


def seconds_ahead(model: dict[str, Any]) -> float:
    expires = datetime.fromisoformat(model["expires_at"])
    return (expires - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (None, 300),
        (300, 300),
        (300.0, 300),
        (42.5, 42.5),
        ("10m", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1d", 86400),
        ("300", 300),
        ("90000ms", 90),
        (-1, 292 * YEAR),
        (-3.14, 292 * YEAR),
        ("-1", 292 * YEAR),
        ("-1m", 292 * YEAR),
        ("2562047h47m16.854775807s", 292 * YEAR),
    ],
)
async def test_keep_alive_is_seconds_or_a_duration(
    keep_alive: object, seconds: float, served: Served
) -> None:
    assert (await served.embed(input="x", keep_alive=keep_alive)).status == 200
    [model] = await served.ps()
    assert seconds_ahead(model) == pytest.approx(seconds, rel=0.002, abs=5)


@pytest.mark.parametrize("keep_alive", [0, 0.0, -0.0, "0", "0s", "0m"])
async def test_keep_alive_0_unloads_when_the_request_ends(
    keep_alive: object, served: Served
) -> None:
    assert (await served.embed(input="x", keep_alive=keep_alive)).status == 200
    await until(lambda: served.loads.models[0].closed)
    assert await served.loaded() == []


async def test_keep_alive_stays_until_a_request_changes_it(served: Served) -> None:
    await served.embed(input="x", keep_alive="10m")
    await served.embed(input="x")
    assert seconds_ahead((await served.ps())[0]) == pytest.approx(600, abs=5)
    served.clock.advance(599)
    assert await served.loaded() == ["tiny:latest"]
    await served.post("/api/embeddings", {"model": "tiny", "prompt": "x", "keep_alive": "20s"})
    served.clock.advance(19)
    assert seconds_ahead((await served.ps())[0]) == pytest.approx(1, abs=0.9)
    served.clock.advance(1)
    await until(lambda: served.loads.models[0].closed)
    assert await served.loaded() == []


async def test_the_clock_stands_while_a_request_runs(served: Served) -> None:
    await served.embed(input="x")
    [model] = served.loads.models
    model.gate.clear()
    running = asyncio.create_task(served.embed(input="x", keep_alive=60))
    await until(lambda: model.waiting == 1)
    served.clock.advance(1000)
    assert seconds_ahead((await served.ps())[0]) == pytest.approx(60, abs=5)
    model.gate.set()
    assert (await running).status == 200
    assert seconds_ahead((await served.ps())[0]) == pytest.approx(60, abs=5)


async def test_a_refused_request_never_loads_but_an_empty_one_does(served: Served) -> None:
    for body in ({"input": 5}, {"input": "x", "options": {"num_ctx": "x"}}, {"input": [10**9]}):
        assert (await served.embed(**body)).status == 400
    assert served.loads.names == []
    await served.embed(input=[])
    assert await served.loaded() == ["tiny:latest"]


async def test_options_never_reload(served: Served) -> None:
    for num_ctx in (16, 32, 64, None):
        options = {"num_ctx": num_ctx, "temperature": 0, "num_batch": 7}
        assert (await served.embed(input="x", options=options)).status == 200
    assert served.loads.names == ["tiny:latest"]


async def test_64_requests_at_once_share_one_load(served: Served) -> None:
    served.loads.gate.clear()
    requests = [asyncio.create_task(served.embed(input=f"text {i}")) for i in range(64)]
    await until(lambda: served.loads.names != [])
    [loading] = await served.ps()
    assert (loading["name"], loading["state"]) == ("tiny:latest", "loading")
    served.loads.gate.set()
    replies = await asyncio.gather(*requests)
    assert [reply.status for reply in replies] == [200] * 64
    for index in (0, 63):
        again = await served.embed(input=f"text {index}")
        assert again.json["embeddings"] == replies[index].json["embeddings"]
    assert served.loads.names == ["tiny:latest"]


async def test_only_requests_that_waited_for_the_load_report_it(served: Served) -> None:
    first, second = await served.embed(input="x"), await served.embed(input="x")
    assert first.headers["Server-Timing"].startswith("load;dur=")
    assert second.headers["Server-Timing"].startswith("tokenize;dur=")
    assert 0 < second.json["load_duration"] < second.json["total_duration"]


async def test_a_full_queue_answers_503_and_other_requests_go_on(open_server: OpenServer) -> None:
    served: Served = await open_server(max_queue=1)
    served.loads.gate.clear()
    three = [asyncio.create_task(served.embed(input="x")) for _ in range(3)]
    done, others = await asyncio.wait(three, return_when=asyncio.FIRST_COMPLETED)
    [refused] = [one.result() for one in done]
    assert refused.status == 503
    assert refused.json == {
        "error": "server busy, please try again.  maximum pending requests exceeded"
    }
    assert int(refused.headers["Retry-After"]) >= 1
    served.loads.gate.set()
    assert [(await one).status for one in others] == [200, 200]


async def test_the_idle_model_with_the_shortest_keep_alive_makes_room(
    open_server: OpenServer,
) -> None:
    served: Served = await open_server(max_models=2)
    await served.embed(model="tiny", input="x", keep_alive="10m")
    await served.embed(model="other", input="x", keep_alive="1m")
    assert await served.loaded() == ["tiny:latest", "other:latest"], "furthest expiry first"
    assert (await served.embed(model="third", input="x")).status == 200
    assert await served.loaded() == ["tiny:latest", "third:latest"]


@pytest.mark.parametrize(
    "error", [ModelLoadError("no tensor x"), LoadTimeoutError('timed out loading model "tiny"')]
)
async def test_a_failed_load_is_500_with_the_cause_and_is_tried_again(
    error: Exception, served: Served
) -> None:
    served.loads.error = error
    reply = await served.embed(input="x")
    assert (reply.status, reply.json) == (500, {"error": str(error)})
    assert "Retry-After" not in reply.headers
    assert await served.ps() == []
    served.loads.error = None
    assert (await served.embed(input="x")).status == 200


async def test_a_client_that_leaves_during_a_load_does_not_stop_it(served: Served) -> None:
    served.loads.gate.clear()
    leaving = asyncio.create_task(served.embed(input="x"))
    await until(lambda: served.loads.names != [])
    staying = asyncio.create_task(served.embed(input="x"))
    leaving.cancel()
    await asyncio.wait([leaving])
    served.loads.gate.set()
    assert (await staying).status == 200
    assert served.loads.names == ["tiny:latest"]


async def test_stored_and_running_models_agree(served: Served) -> None:
    await served.embed(model="short", input="x")
    stored = (await served.send("GET", "/api/tags")).json["models"]
    [running] = await served.ps()
    [twin] = [model for model in stored if model["name"] == running["name"]]
    assert running["digest"] == twin["digest"]
    assert running["context_length"] == 8
    assert twin["details"] == {**running["details"], "context_length": 64, "embedding_length": 32}


async def test_a_model_that_was_deleted_meanwhile_is_still_listed(served: Served) -> None:
    await served.embed(input="x")
    [path] = served.store.layout.root.glob("manifests/*/*/tiny/latest")
    path.unlink()
    [running] = await served.ps()
    assert (running["name"], running["digest"]) == ("tiny:latest", "")
    assert running["details"]["families"] == []


async def test_an_empty_store_is_an_empty_list(open_server: OpenServer) -> None:
    served: Served = await open_server(models=False)
    assert (await served.send("GET", "/api/tags")).json == {"models": []}
    assert await served.ps() == []
