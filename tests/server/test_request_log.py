"""The log of requests: a line for each, where the operator wants it, without texts."""

import asyncio
import logging
from typing import Any

import pytest

from embedd.server.ops.observer import make_observer
from embedd.server.ops.request_log import log_request
from tests.server.serving import OpenServer, until

SECRET = "what the client wrote"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [one.__dict__ for one in caplog.records if one.message == "request answered"]


async def test_requests_are_not_logged_unless_it_is_wanted(
    open_server: OpenServer, caplog: pytest.LogCaptureFixture
) -> None:
    served = await open_server()
    with caplog.at_level(logging.INFO, "embedd"):
        assert (await served.embed(input="a")).status == 200
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("path", "body", "inputs"),
    [
        ("/api/embed", {"model": "tiny", "input": [SECRET, "b"]}, 2),
        ("/api/embeddings", {"model": "tiny", "prompt": SECRET}, 1),
        ("/v1/embeddings", {"model": "tiny", "input": SECRET}, 1),
        ("/embed", {"model": "tiny", "inputs": SECRET}, 1),
        ("/v1/rerank", {"model": "ranker", "query": SECRET, "documents": ["x", "y"]}, 2),
    ],
)
async def test_a_line_says_what_was_computed_and_never_the_texts(
    path: str,
    body: dict[str, object],
    inputs: int,
    open_server: OpenServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = await open_server(observers=[make_observer(log_request)])
    with caplog.at_level(logging.INFO, "embedd"):
        headers = {"X-Request-Id": "mine"}
        reply = await served.send("POST", f"{path}?text={SECRET}", json=body, headers=headers)
    assert reply.status == 200
    [line] = lines(caplog)
    assert (line["method"], line["path"], line["status"]) == ("POST", path, 200)
    assert (line["client"], line["request_id"]) == ("127.0.0.1", "mine")
    assert (line["model"], line["inputs"], line["truncated"]) == (body["model"], inputs, 0)
    assert line["tokens"] >= inputs
    parts = [line[f"{name}_ms"] for name in ("load", "tokenize", "queue", "compute")]
    assert all(part >= 0 for part in parts)
    assert line["ms"] >= sum(parts[:2])
    assert SECRET not in str(line)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("GET", "/nothing", 404), ("PUT", "/api/embed", 405), ("GET", "/ui", 302)],
)
async def test_a_request_without_a_model_is_a_line_with_its_status(
    method: str,
    path: str,
    status: int,
    open_server: OpenServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = await open_server(observers=[make_observer(log_request)])
    with caplog.at_level(logging.INFO, "embedd"):
        reply = await served.send(method, path, allow_redirects=False)
    assert reply.status == status
    [line] = lines(caplog)
    assert (line["path"], line["status"]) == (path, status)
    assert "model" not in line


async def test_a_client_that_leaves_is_a_line_with_status_499(
    open_server: OpenServer, caplog: pytest.LogCaptureFixture
) -> None:
    served = await open_server(observers=[make_observer(log_request)])
    served.loads.gate.clear()
    with caplog.at_level(logging.INFO, "embedd"):
        request = asyncio.create_task(served.embed(input="a"))
        await until(lambda: bool(served.loads.names))
        request.cancel()
        await until(lambda: bool(lines(caplog)))
    served.loads.gate.set()
    assert [line["status"] for line in lines(caplog)] == [499]
