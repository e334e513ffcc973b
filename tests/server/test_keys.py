"""API keys over HTTP: which routes need one, and how a missing key is answered."""

import logging
from typing import Any

import pytest

from embedd.config import Address
from embedd.errors import ConfigError
from embedd.server.access.auth import Access, Keys, choose_access
from embedd.server.app import DIALECTS
from embedd.server.http.bodies import BodyLimits
from embedd.server.wiring import choose_keys
from tests.conftest import MakeSettings
from tests.key_watch import MARK
from tests.server.serving import OpenServer, Served

USER, BOSS = f"{MARK}user", f"{MARK}boss"
KEYS = Keys(listed=[USER], admin=[BOSS])
MISSING = (
    "invalid API key (none was sent): send the header `Authorization: Bearer KEY` "
    "(or X-Api-Key, or Api-Key); the server's operator sets it (EMBEDD_API_KEY)"
)
OPENAI = {
    "error": {
        "message": MISSING,
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    },
    "detail": MISSING,
}
ROUTES = [
    (route.method, route.path.replace("{digest}", "sha256:0").replace("{id}", "a/b"))
    for dialect in DIALECTS
    for route in dialect.routes
    if choose_access(route.method, route.path) is not Access.PUBLIC
]


@pytest.fixture
async def protected(open_server: OpenServer) -> Served:
    server: Served = await open_server(keys=KEYS)
    return server


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("key", ["", f"Bearer {MARK}no"], ids=["none", "wrong"])
async def test_a_route_that_requires_a_key_refuses_requests_without_one(
    method: str, path: str, key: str, protected: Served
) -> None:
    headers = {"Authorization": key} if key else {}
    reply = await protected.send(method, path, headers=headers, data=b"{")
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert reply.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", {"error": f"unauthorized: {MISSING}"}),
        ("/api/embeddings", {"error": f"unauthorized: {MISSING}"}),
        ("/api/pull", {"error": f"unauthorized: {MISSING.replace('API_KEY', 'ADMIN_KEY')}"}),
        ("/v1/embeddings", OPENAI),
        ("/api/v3/inference/embeddings", OPENAI),
        ("/v2/embed", {"id": "mine", "message": MISSING}),
    ],
)
async def test_a_missing_key_is_answered_in_the_shape_of_the_paths_dialect(
    path: str, body: Any, protected: Served
) -> None:
    sent = {"model": "tiny", "input": "x"}
    reply = await protected.send("POST", path, json=sent, headers={"X-Request-Id": "mine"})
    assert (reply.status, reply.json) == (401, body)
    assert protected.loads.names == []


async def test_a_wrong_key_is_distinguished_from_a_missing_one(protected: Served) -> None:
    for headers in ({"Authorization": "Bearer no"}, {"X-Api-Key": "no"}, {"api-key": "no"}):
        reply = await protected.send("POST", "/api/embed", headers=headers)
        wrong = f"unauthorized: {MISSING.replace(' (none was sent)', '')}"
        assert (reply.status, reply.json["error"]) == (401, wrong)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {USER}"},
        {"Authorization": f"bearer {USER}"},
        {"X-Api-Key": USER},
        {"api-key": USER},
    ],
)
async def test_an_api_key_does_not_allow_management(
    headers: dict[str, str], protected: Served
) -> None:
    body = {"model": "tiny", "input": "x"}
    reply = await protected.send("POST", "/v1/embeddings", json=body, headers=headers)
    assert reply.status == 200
    names = {"source": "tiny", "destination": "copy"}
    refused = await protected.send("POST", "/api/copy", json=names, headers=headers)
    assert (refused.status, "WWW-Authenticate" in refused.headers) == (403, False)
    assert refused.json == {
        "error": "this API key may not manage models: send an admin key (EMBEDD_ADMIN_KEY)"
    }
    refused = await protected.send("POST", "/sdapi/v1/options", json={}, headers=headers)
    assert (refused.status, "EMBEDD_ADMIN_KEY" in refused.json["error"]) == (403, True)
    boss = {"Authorization": f"Bearer {BOSS}"}
    assert (await protected.send("POST", "/api/copy", json=names, headers=boss)).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/version",
        "/api/version/",
        "/docs",
        "/docs/swagger-ui.css",
        "/favicon.ico",
        "/openapi.json",
    ],
)
async def test_public_paths_need_no_key(method: str, path: str, protected: Served) -> None:
    assert (await protected.send(method, path)).status == 200


async def test_a_preflight_needs_no_key(protected: Served) -> None:
    asks = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    assert (await protected.send("OPTIONS", "/api/embed", headers=asks)).status == 204


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/api/embed", {"Origin": "https://evil.example"}, 403),
        ("POST", "/nope", {}, 404),
        ("POST", "/v1/nope", {}, 404),
        ("GET", "/api/embed", {}, 405),
        ("GET", "/v1/embeddings", {}, 405),
        ("POST", "/v1/embeddings", {}, 401),
        ("POST", "/v1/embeddings", {"X-Api-Key": USER}, 413),
    ],
)
async def test_the_key_is_checked_after_the_route_and_before_the_body(
    method: str, path: str, headers: dict[str, str], status: int, open_server: OpenServer
) -> None:
    served = await open_server(keys=KEYS, bodies=BodyLimits(max_body=10, max_in_flight=10))
    assert (await served.send(method, path, headers=headers, data=b"x" * 11)).status == status


async def test_a_server_without_keys_ignores_them(served: Served) -> None:
    for key in ("Bearer ", "Bearer x", "Basic x"):
        reply = await served.send("GET", "/api/tags", headers={"Authorization": key})
        assert reply.status == 200


async def test_keys_are_never_logged(protected: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for headers in (
        {"Authorization": "Bearer sk-secret-hunter"},
        {"X-Api-Key": "sk-secret-hunter"},
    ):
        await protected.send("POST", "/api/embed", headers=headers)
    assert "request failed" in caplog.text
    assert not any(MARK in str(record.__dict__) for record in caplog.records)


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [
        (Address(host="0.0.0.0"), (), True),
        (Address(host="::"), (), True),
        (Address(host="10.0.0.1"), (), True),
        (Address(host="0.0.0.0"), ("k",), False),
        (Address(host="127.0.0.1"), (), False),
        (Address(host="localhost"), (), False),
    ],
)
def test_a_server_without_keys_that_other_machines_reach_logs_a_warning(
    host: Address,
    keys: tuple[str, ...],
    *,
    warned: bool,
    make_settings: MakeSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    choose_keys(make_settings(host=host, api_key=keys))
    assert ("set EMBEDD_API_KEY" in caplog.text) == warned


def test_a_file_of_keys_that_is_not_there_stops_the_start(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with pytest.raises(ConfigError, match="cannot read the API keys"):
        choose_keys(make_settings(api_key_file=settings.models / "nothing"))
