"""The OpenAPI document: complete, true (checked by Schemathesis), readable offline."""

import asyncio
import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    response_schema_conformance,
    status_code_conformance,
)

from embedd.server.app import DIALECTS
from embedd.server.dialects.openai.embed import EmbedBody
from embedd.server.openapi.examples import ENTRIES, PAINTER
from tests.server.serving import Served

# Routes that use the network, remove models, or answer without an end.
LEFT_OUT = r"^/(docs|openapi|ui|api/(pull|delete|create|copy))"
CHECKS: list[CheckFunction] = [status_code_conformance, response_schema_conformance]
EXAMPLES = 5  # for each operation
GOOD: list[tuple[str, str, object]] = [
    ("POST", "/api/embed", {"model": "tiny", "input": ["x", "a" * 99]}),
    ("POST", "/api/embeddings", {"model": "tiny", "prompt": "x"}),
    ("POST", "/api/embeddings", {"model": "tiny", "input": "x"}),
    ("POST", "/api/show", {"model": "tiny"}),
    ("POST", "/api/generate", {"model": "tiny"}),
    ("POST", "/v1/embeddings", {"model": "tiny", "input": "x"}),
    ("POST", "/v1/embeddings", {"model": "tiny", "input": "x", "encoding_format": "base64"}),
    ("POST", "/v1/embeddings", {"model": "tiny", "input": "x", "embedding_type": ["int8"]}),
    ("POST", "/embeddings", {"model": "tiny", "content": "x"}),
    ("POST", "/api/v3/inference/embeddings", {"model": "tiny", "input": "x"}),
    ("POST", "/v1/embed", {"model": "tiny", "texts": ["x"]}),
    ("POST", "/v2/embed", {"model": "tiny", "texts": ["x"], "embedding_types": ["int8"]}),
    ("POST", "/v1/rerank", {"model": "ranker", "query": "x", "documents": ["x", "y"]}),
    ("POST", "/rerank", {"model": "ranker", "query": "x", "texts": ["x", "y"]}),
    ("POST", "/embed", {"model": "tiny", "inputs": "x"}),
    ("POST", "/embed_all", {"model": "tiny", "inputs": "x"}),
    ("POST", "/embedding", {"model": "tiny", "content": "x"}),
    ("POST", "/tokenize", {"model": "tiny", "content": "x"}),
    ("POST", "/tokenize", {"model": "tiny", "inputs": "x"}),
    ("POST", "/api/generate", {"model": "sd", "prompt": "x", "stream": False}),
    ("POST", "/v1/images/generations", {"model": "sd", "prompt": "x"}),
    ("POST", "/v1/images/generations", {"model": "sd", "prompt": "x", "response_format": "url"}),
    ("POST", "/api/v1/images/generation", {"model": "sd", "prompt": "x"}),
    ("POST", "/v1/images/generation", {"model": "tiny", "input": "x"}),
    ("POST", "/sdapi/v1/txt2img", {"prompt": "x"}),
    ("GET", "/sdapi/v1/options", None),
    ("GET", "/sdapi/v1/sd-models", None),
    ("GET", "/sdapi/v1/progress", None),
    ("GET", "/v1/models", None),
    ("GET", "/api/tags", None),
    ("GET", "/api/ps", None),
    ("GET", "/api/version", None),
    ("GET", "/health", None),
]


async def read_document(served: Served) -> dict[str, Any]:
    reply = await served.send("GET", "/openapi.json")
    assert reply.status == 200
    document: dict[str, Any] = reply.json
    return document


async def test_the_document_has_every_route(served: Served) -> None:
    document = await read_document(served)
    assert document["openapi"] == "3.1.0"
    documented = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    assert documented == {(route.method, route.path) for one in DIALECTS for route in one.routes}


def test_every_route_has_a_summary_and_an_example_of_its_body() -> None:
    routes = {(route.method, route.path): route for one in DIALECTS for route in one.routes}
    assert set(ENTRIES) == set(routes)
    for key, route in routes.items():
        entry = ENTRIES[key]
        has_body = route.body not in (None, bytes)
        assert bool(entry.bodies) == has_body, key
        required = {"api-version"} if "deployments" in route.path else set()
        assert set(re.findall(r"{(\w+)}", route.path)) | required <= set(entry.parameters), key
    summaries = [entry.summary for entry in ENTRIES.values()]
    assert all(one[0].isupper() and not one.endswith(".") for one in summaries)


WITHOUT_ANSWER = {"/api/copy", "/api/delete", "/api/push", "/api/blobs/{digest}"}


def test_every_route_names_its_body_and_its_answer() -> None:
    routes = [route for one in DIALECTS for route in one.routes]
    assert routes
    for route in routes:
        has_none = route.method in {"GET", "HEAD"} or "push" in route.path or "{id}" in route.path
        assert (route.body is None) == has_none
        assert (route.reply is None) == (route.path in WITHOUT_ANSWER), route.path


async def test_every_reference_leads_somewhere(served: Served) -> None:
    reply = await served.send("GET", "/openapi.json")
    named = re.findall(r'"#/components/schemas/([^"]+)"', reply.body.decode())
    assert set(named) == set(reply.json["components"]["schemas"])


async def test_bodies_are_those_that_decode(served: Served) -> None:
    document = await read_document(served)
    operation = document["paths"]["/v1/embeddings"]["post"]
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    body = document["components"]["schemas"][name.rpartition("/")[2]]
    assert body["properties"].keys() == set(EmbedBody.__struct_fields__)


async def test_what_the_document_allows_is_answered_as_it_says(served: Served) -> None:
    served.add_image_model("sd")
    document = await read_document(served)
    base_url = str(served.client.make_url("/"))
    schema = schemathesis.openapi.from_dict(document).exclude(path_regex=LEFT_OUT)
    results: list[Any] = list(schema.get_all_operations())
    operations = [result.ok() for result in results]
    assert len(operations) > 30
    for operation in operations:
        await asyncio.to_thread(ask, operation, base_url)


async def test_examples_of_pictures_are_answered_as_they_stand(served: Served) -> None:
    served.add_image_model(PAINTER)
    painted = 0
    for (method, path), entry in ENTRIES.items():
        for body in entry.bodies.values():
            if PAINTER in str(body) and path != "/api/pull":
                reply = await served.send(method, path, json=body)
                assert reply.status == 200, (path, reply.body)
                painted += 1
    assert painted >= 6


async def test_good_requests_have_the_answers_of_the_document(served: Served) -> None:
    served.add_image_model("sd")
    schema = schemathesis.openapi.from_dict(await read_document(served))
    base_url = str(served.client.make_url("/"))
    for method, path, body in GOOD:
        sent: dict[str, Any] = (
            {} if body is None else {"body": body, "media_type": "application/json"}
        )
        case = schema[path][method].Case(**sent)
        response = await asyncio.to_thread(case.call, base_url=base_url)
        assert response.status_code == 200, (path, response.text)
        case.validate_response(response, checks=CHECKS)


def ask(operation: Any, base_url: str) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        response = case.call(base_url=base_url)
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=CHECKS)

    run()


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/docs", "text/html", b'src="/docs/swagger-ui-bundle.js"'),
        ("/docs/", "text/html", b'src="/docs/docs.js"'),
        ("/docs/docs.js", "text/javascript", b"../openapi.json"),
        ("/docs/docs.css", "text/css", b"#key-form"),
        ("/docs/swagger-ui-bundle.js", "text/javascript", b"SwaggerUIBundle"),
        ("/docs/swagger-ui.css", "text/css", b".swagger-ui"),
    ],
)
async def test_the_page_comes_from_this_server_alone(
    path: str, kind: str, text: bytes, served: Served
) -> None:
    reply = await served.send("GET", path)
    assert (reply.status, reply.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
    assert text in reply.body
    assert "script-src 'self'; style-src 'self'" in reply.headers["Content-Security-Policy"]
    if kind == "text/html":
        assert b"http" not in reply.body


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2fapp.py", "swagger-ui.css.map", "../../app.py", ".js", "a/b.js"]
)
async def test_no_other_file_is_served(name: str, served: Served) -> None:
    assert (await served.send("GET", f"/docs/{name}")).status == 404
