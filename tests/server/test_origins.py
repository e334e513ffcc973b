"""Hosts, origins and preflight requests over HTTP."""

import logging

import pytest

from embedd.server.access.origins import ALLOWED_HEADERS, OriginPolicy
from tests.server.serving import OpenServer, Served

HERE = "http://localhost:3000"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/api/embed", "/nope"])
@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"Origin": "https://evil.example"}, ("https://evil.example", "EMBEDD_ORIGINS")),
        ({"Origin": "null"}, ("null", "EMBEDD_ORIGINS")),
        ({"Origin": "http://["}, ("http://[", "EMBEDD_ORIGINS")),
        ({"Host": "evil.example"}, ("evil.example", "EMBEDD_ALLOWED_HOSTS")),
        (
            {"Host": "evil.example:11434", "Origin": "http://evil.example:11434"},
            ("evil.example:11434", "EMBEDD_ALLOWED_HOSTS"),
        ),
    ],
)
async def test_a_host_or_origin_that_is_not_allowed_gets_a_403_that_names_it_before_any_other_check(
    method: str,
    path: str,
    headers: dict[str, str],
    named: tuple[str, str],
    *,
    served: Served,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    reply = await served.send(method, path, headers=headers, data=b"{")
    assert reply.status == 403
    [record] = caplog.records
    for text in [] if method == "HEAD" else [reply.json["error"], record.__dict__["reason"]]:
        assert f"'{named[0]}'" in text
        assert named[1] in text
    assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/v1/embeddings", {"error", "detail"}),
        ("/v1/nope", {"error", "detail"}),
        ("/v2/embed", {"id", "message"}),
        ("/embed", {"error", "error_type"}),
        ("/sdapi/v1/txt2img", {"error", "detail"}),
    ],
)
async def test_a_refused_page_is_answered_in_the_shape_of_the_paths_dialect(
    path: str, keys: set[str], served: Served
) -> None:
    reply = await served.send("POST", path, headers={"Origin": "https://evil.example"})
    assert (reply.status, reply.json.keys()) == (403, keys)
    assert "EMBEDD_ORIGINS" in str(reply.json)


async def test_a_long_origin_is_quoted_in_part(served: Served) -> None:
    reply = await served.send("GET", "/", headers={"Origin": "https://" + "a" * 5000})
    assert reply.status == 403
    assert len(reply.body) < 400


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
    assert reply.headers["Vary"] == "Origin, Access-Control-Request-Headers"
    assert reply.headers["Access-Control-Max-Age"] == "43200"
    methods = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert reply.headers["Access-Control-Allow-Methods"] == methods
    allowed = reply.headers["Access-Control-Allow-Headers"].split(",")
    assert {"Authorization", "Content-Type", "User-Agent", "Accept"} <= set(allowed)
    assert {"X-Requested-With", "OpenAI-Beta", "X-Api-Key", "X-Request-Id"} <= set(allowed)
    assert sum(name.startswith("x-stainless-") for name in allowed) > 5
    assert "Access-Control-Allow-Credentials" not in reply.headers


ASKED = "cache-control, traceparent,baggage,openai-organization,x-client-name,api-key"


@pytest.mark.parametrize(
    ("asked", "is_echoed"),
    [
        (ASKED, True),
        ("x", True),
        ("x y", False),
        ("x,,y", False),
        ("x:y", False),
        (",".join(["x-header"] * 1000), False),
    ],
)
async def test_an_allowed_page_may_send_the_headers_that_it_asks_for(
    asked: str, *, is_echoed: bool, served: Served
) -> None:
    asks = {"Origin": HERE, "Access-Control-Request-Method": "POST"}
    reply = await served.send(
        "OPTIONS", "/v1/embeddings", headers={**asks, "Access-Control-Request-Headers": asked}
    )
    assert reply.status == 204
    assert reply.headers["Access-Control-Allow-Headers"] == (
        asked if is_echoed else ALLOWED_HEADERS
    )
    assert "Access-Control-Allow-Private-Network" not in reply.headers


async def test_a_page_of_a_public_network_may_ask_for_this_private_one(served: Served) -> None:
    asks = {"Origin": HERE, "Access-Control-Request-Private-Network": "true"}
    reply = await served.send("OPTIONS", "/api/embed", headers=asks)
    assert reply.headers["Access-Control-Allow-Private-Network"] == "true"


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
    assert "Origin" not in reply.headers.get("Vary", "")
