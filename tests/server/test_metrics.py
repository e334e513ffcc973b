"""``/metrics``: requests by route and status, with no label that clients can make up."""

import asyncio

from tests.server.serving import Served, until


async def read(served: Served) -> str:
    async with served.client.get("/metrics") as reply:
        assert reply.status == 200
        assert reply.content_type == "text/plain"
        return await reply.text()


async def test_requests_are_counted_by_route_and_status(served: Served) -> None:
    for body, status in (({"model": "tiny", "input": "a"}, 200), ({"model": "none"}, 404)):
        async with served.client.post("/api/embed", json=body) as reply:
            assert reply.status == status
    async with served.client.get("/v1/models/some/name") as reply:
        await reply.read()
    text = await read(served)
    assert 'embedd_requests_total{route="/api/embed",status="200"} 1.0' in text
    assert 'embedd_requests_total{route="/api/embed",status="404"} 1.0' in text
    assert 'embedd_request_seconds_count{route="/api/embed"} 2.0' in text
    assert "some/name" not in text
    assert "embedd_requests_in_flight 1.0" in text  # the one that reads them


async def test_requests_without_a_route_are_counted_under_one_name(served: Served) -> None:
    for path in ("/made/up", "/also"):
        async with served.client.get(path) as reply:
            assert reply.status == 404
    async with served.client.get("/api/embed") as reply:
        assert reply.status == 405
    text = await read(served)
    assert 'embedd_requests_total{route="none",status="404"} 2.0' in text
    assert 'embedd_requests_total{route="none",status="405"} 1.0' in text
    assert "made" not in text


async def test_inputs_and_tokens_are_counted_by_model(served: Served) -> None:
    async with served.client.post(
        "/api/embed", json={"model": "tiny", "input": ["a", "b c"]}
    ) as reply:
        tokens = (await reply.json())["prompt_eval_count"]
    text = await read(served)
    assert 'embedd_inputs_total{model="tiny:latest"} 2.0' in text
    assert f'embedd_tokens_total{{model="tiny:latest"}} {tokens}.0' in text


async def test_a_model_that_does_not_exist_has_no_series(served: Served) -> None:
    for path, field in (("/api/embed", "input"), ("/v1/embeddings", "input"), ("/embed", "inputs")):
        reply = await served.post(path, {"model": "made-up", field: "a"})
        assert reply.status in (404, 424)
    assert "made-up" not in await read(served)


async def test_a_client_that_leaves_is_counted(served: Served) -> None:
    await served.embed(input="loads the model")
    [model] = served.loads.models
    model.gate.clear()
    leaving = asyncio.create_task(served.embed(input="x"))
    await until(lambda: model.waiting == 1)
    leaving.cancel()
    await until(lambda: model.waiting == 0)
    text = await read(served)
    assert 'embedd_cancelled_requests_total{model="tiny:latest"} 1.0' in text
    assert 'embedd_requests_total{route="/api/embed",status="499"} 1.0' in text
