"""Hosts, origins and preflight requests over HTTP."""

import pytest

from embedd.server.access.origins import OriginPolicy
from tests.server.serving import OpenServer, Served

HERE = "http://localhost:3000"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/api/embed", "/nope"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Host": "evil.example"},
        {"Host": "evil.example:11434", "Origin": "http://evil.example:11434"},
    ],
)
async def test_a_host_or_origin_that_is_not_allowed_gets_an_empty_403_before_any_other_check(
    method: str, path: str, headers: dict[str, str], served: Served
) -> None:
    reply = await served.send(method, path, headers=headers, data=b"{")
    assert (reply.status, reply.body) == (403, b"")
    assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize("headers", [{}, {"Origin": ""}, {"Host": ""}, {"Host": "box.local:1"}])
async def test_requests_without_an_origin_are_accepted(
    headers: dict[str, str], served: Served
) -> None:
    reply = await served.send("GET", "/", headers=headers)
    assert (reply.status, reply.body) == (200, b"Ollama is running")
    assert "Access-Control-Allow-Origin" not in reply.headers


async def test_without_the_host_check_every_host_is_accepted(open_server: OpenServer) -> None:
    served: Served = await open_server(origins=OriginPolicy(check_host=False))
    reply = await served.send("GET", "/", headers={"Host": "embeddings.example"})
    assert reply.status == 200


@pytest.mark.parametrize("path", ["/", "/api/embed", "/nope"])
async def test_an_allowed_preflight_is_answered_for_any_path(path: str, served: Served) -> None:
    asks = {"Origin": HERE, "Access-Control-Request-Method": "POST"}
    reply = await served.send("OPTIONS", path, headers=asks)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["Access-Control-Allow-Origin"] == HERE
    assert reply.headers["Vary"] == "Origin"
    assert reply.headers["Access-Control-Max-Age"] == "43200"
    methods = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert reply.headers["Access-Control-Allow-Methods"] == methods
    allowed = reply.headers["Access-Control-Allow-Headers"].split(",")
    assert {"Authorization", "Content-Type", "User-Agent", "Accept"} <= set(allowed)
    assert {"X-Requested-With", "OpenAI-Beta", "X-Api-Key", "X-Request-Id"} <= set(allowed)
    assert sum(name.startswith("x-stainless-") for name in allowed) > 5
    assert "Access-Control-Allow-Credentials" not in reply.headers


async def test_options_without_an_origin_is_204_too(served: Served) -> None:
    reply = await served.send("OPTIONS", "/api/embed")
    assert reply.status == 204
    assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize(
    ("body", "status"),
    [({"input": "x"}, 200), ({"input": ["x"] * 100}, 200), ({"input": 5}, 400)],
    ids=["small", "streamed", "refused"],
)
async def test_an_allowed_page_may_read_every_kind_of_answer(
    body: dict[str, object], status: int, served: Served
) -> None:
    reply = await served.send(
        "POST", "/api/embed", json={"model": "tiny", **body}, headers={"Origin": HERE}
    )
    assert reply.status == status
    assert reply.headers["Access-Control-Allow-Origin"] == HERE
    assert reply.headers["Vary"] == "Origin"
    exposed = reply.headers["Access-Control-Expose-Headers"].split(",")
    assert {"X-Embedd-Model", "X-Embedd-Truncated", "Server-Timing", "Retry-After"} <= set(exposed)


async def test_where_all_origins_are_allowed_the_answer_is_a_star(open_server: OpenServer) -> None:
    served: Served = await open_server(origins=OriginPolicy(check_host=True, origins=["*"]))
    reply = await served.send("GET", "/", headers={"Origin": "https://any.example"})
    assert reply.status == 200
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in reply.headers
