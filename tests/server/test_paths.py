"""Paths: doubled slashes, the prefix of a proxy, Azure's deployments, and mistakes with a hint."""

import base64

import pytest

from embedd.server.access.auth import Keys
from tests.key_watch import MARK
from tests.server.serving import OpenServer, Served

KEY = f"{MARK}azure"
BODY = {"model": "tiny", "input": "x"}


@pytest.mark.parametrize(
    ("method", "path", "same"),
    [
        ("POST", "//v1/embeddings", "/v1/embeddings"),
        ("POST", "/v1//embeddings", "/v1/embeddings"),
        ("POST", "/v1//embeddings//", "/v1/embeddings"),
        ("POST", "/api//embed", "/api/embed"),
        ("POST", "//api///embed", "/api/embed"),
        ("GET", "//", "/"),
        ("GET", "///api/tags", "/api/tags"),
        ("GET", "/v1//models//tiny:latest", "/v1/models/tiny:latest"),
        ("GET", "//info?model=tiny", "/info?model=tiny"),
        ("HEAD", "//api/version", "/api/version"),
    ],
)
async def test_doubled_slashes_are_the_same_route_without_a_redirect(
    method: str, path: str, same: str, served: Served
) -> None:
    body = BODY if method == "POST" else None
    url = served.client.make_url("/").origin()
    one = await served.client.session.request(method, f"{url}{path}", json=body)
    other = await served.client.session.request(method, f"{url}{same}", json=body)
    assert one.status == other.status == 200
    assert one.history == ()
    assert one.headers["Content-Type"] == other.headers["Content-Type"]
    assert len(await one.read()) > (0 if method != "HEAD" else -1)


async def test_doubled_slashes_change_no_error(open_server: OpenServer) -> None:
    served: Served = await open_server(keys=Keys(listed=[KEY]))
    url = f"{served.client.make_url('/').origin()}"
    session = served.client.session
    assert (await session.post(f"{url}//v1/embeddings", json=BODY)).status == 401
    assert (await session.get(f"{url}//api//embed")).status == 405
    nothing = await session.post(f"{url}//v1//nope", json=BODY)
    assert nothing.status == 404
    assert (await nothing.json())["error"]["type"] == "invalid_request_error"
    basic = {"Authorization": "Basic Ong="}
    assert (await session.get(f"{url}//sdapi/v1/samplers", headers=basic)).status == 401
    basic = {"Authorization": "Basic " + base64.b64encode(f":{KEY}".encode()).decode()}
    assert (await session.get(f"{url}//sdapi/v1/samplers", headers=basic)).status == 200


async def test_a_base_path_is_a_prefix_of_every_route(open_server: OpenServer) -> None:
    served: Served = await open_server(base_path="/llm")
    for path in ("/llm/v1/embeddings", "/v1/embeddings", "/llm//v1/embeddings"):
        assert (await served.post(path, BODY)).status == 200, path
    for path in ("/llm/", "/llm/api/tags", "/llm/docs/swagger-ui.css"):
        assert (await served.send("GET", path)).status == 200, path
    page = (await served.send("GET", "/llm/docs")).body.decode()
    assert 'href="/llm/docs/swagger-ui.css"' in page
    assert 'src="/llm/docs/docs.js"' in page
    document = (await served.send("GET", "/llm/openapi.json")).json
    assert document["servers"] == [{"url": "/llm"}]
    nothing = await served.post("/llm/v1/nope", BODY)
    assert (nothing.status, nothing.json["error"]["type"]) == (404, "invalid_request_error")
    assert (await served.post("/other/v1/embeddings", BODY)).status == 404
    metrics = (await served.send("GET", "/llm/metrics")).body.decode()
    assert 'route="/v1/embeddings"' in metrics
    assert 'route="/llm' not in metrics


@pytest.mark.parametrize("named", ["tiny", "another", None])
async def test_azures_path_names_the_model(named: str | None, open_server: OpenServer) -> None:
    served: Served = await open_server(keys=Keys(listed=[KEY]))
    body = {"input": "x", "model": named}
    path = "/openai/deployments/tiny/embeddings?api-version=2024-02-01"
    reply = await served.send("POST", path, json=body, headers={"api-key": KEY})
    assert (reply.status, reply.json["model"]) == (200, "tiny")
    assert (await served.send("POST", path, json=body)).status == 401
    path = "/openai/deployments/hf.co/a/b:q8/embeddings"
    reply = await served.send("POST", path, json=body, headers={"api-key": KEY})
    assert reply.status == 404
    assert "hf.co/a/b:q8" in reply.json["error"]["message"]
    path = "/openai/v1/embeddings"
    reply = await served.send("POST", path, json=BODY, headers={"api-key": KEY})
    assert reply.status == 200
    reply = await served.send("GET", "/openai/v1/nope", headers={"api-key": KEY})
    assert (reply.status, reply.json["error"]["type"]) == (404, "invalid_request_error")


async def test_azures_path_refuses_ids_of_openais_vocabularies(served: Served) -> None:
    for path in ("/openai/deployments/tiny/embeddings", "/openai/v1/embeddings", "/embeddings"):
        reply = await served.post(path, {"model": "tiny", "input": [[3923, 374]]})
        assert reply.status == 400
        assert "check_embedding_ctx_length=False" in reply.json["detail"]
        assert "EMBEDD_TOKEN_IDS" in reply.json["detail"]
    assert served.loads.names == []


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/api/embedding", "use /api/embed or /api/embeddings"),
        ("/api/embedding/", "use /api/embed or /api/embeddings"),
        ("//api/embedding", "use /api/embed or /api/embeddings"),
        ("/v1/v1/embeddings", "use /v1/embeddings"),
        ("/v1/api/embed", "use /api/embed"),
    ],
)
async def test_a_common_mistake_is_a_404_that_names_the_route(
    path: str, hint: str, served: Served
) -> None:
    url = f"{served.client.make_url('/').origin()}{path}"
    reply = await served.client.session.post(url, json=BODY)
    assert reply.status == 404
    assert hint in str(await reply.json())
