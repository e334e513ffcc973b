"""Requests that are not valid HTTP: a fixed text, and nothing of the client's in it or the log."""

import logging

import pytest

from tests.server.serving import Served
from tests.server.test_connections import Connect, connect

__all__ = ["connect"]

SECRET = "sk-secret-123"
KEY = f"Authorization: Bearer {SECRET}".encode()
GET = b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\n"
NOT_HTTP = b"the request is not valid HTTP/1.1"


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (GET + KEY + b"\r\r\n\r\n", 400, NOT_HTTP),
        (GET + KEY + b"\0\r\n\r\n", 400, NOT_HTTP),
        (GET + KEY + b"\x01\r\n\r\n", 400, NOT_HTTP),
        (GET + KEY + b"a" * (1 << 16) + b"\r\n\r\n", 431, b"each header may have 65536 bytes"),
        (GET + b"X-Api-Key : " + SECRET.encode() + b"\r\n\r\n", 400, NOT_HTTP),
        (GET + SECRET.encode() + b"\r\n\r\n", 400, NOT_HTTP),
        (SECRET.encode() + b"\r\n\r\n", 400, NOT_HTTP),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET.encode(), 400, NOT_HTTP),
        (b"GET / HTTP/1.1\r\n\r\n", 400, NOT_HTTP),
        (GET + b"Expect: " + SECRET.encode() + b"\r\n\r\n", 417, b"known is 100-continue"),
        (
            b"GET /nope HTTP/1.1\r\nHost: localhost\r\nExpect: %b\r\n\r\n" % SECRET.encode(),
            417,
            b"known is 100-continue",
        ),
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + SECRET.encode() + b"\r\n\r\n",
            400,
            NOT_HTTP,
        ),
        (POST + b"Content-Length: " + SECRET.encode() + b"\r\n\r\n", 400, NOT_HTTP),
    ],
)
async def test_a_request_that_is_not_valid_gets_a_fixed_text(
    sent: bytes, status: int, text: bytes, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = await connect(head=0.5)
    await client.send(sent)
    assert await client.status() == status
    answer = await client.rest() if status != 417 else await client.reader.read(4096)
    check(answer, text, caplog)


def check(answer: bytes, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert text in answer
    assert b"Server: embedd/" in answer
    assert SECRET.encode() not in answer
    logged = str([record.__dict__ for record in caplog.records]) + caplog.text
    assert SECRET not in logged
    assert "Traceback" not in logged


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/embed", {"model": "a\r\nb", "input": "x"}),
        ("POST", "/api/embeddings", {"model": "a\r\nb", "prompt": "x"}),
        ("POST", "/v1/embeddings", {"model": "a\r\nb", "input": "x"}),
        ("POST", "/embed", {"model": "a\r\nb", "inputs": "x"}),
        ("POST", "/v2/embed", {"model": "a\r\nb", "texts": ["x"]}),
        ("POST", "/api/show", {"model": "a\r\nb"}),
        ("POST", "/api/copy", {"source": "a\r\nb", "destination": "x"}),
        ("POST", "/api/pull", {"model": "a\r\nb"}),
        ("DELETE", "/api/delete", {"model": "a\r\nb"}),
        ("POST", "/v1/images/generations", {"model": "a\r\nb", "prompt": "x", "c\r\nd": 1}),
        ("GET", "/v1/models/a%0D%0Ab", None),
        ("GET", "/info?model=a%0D%0Ab", None),
    ],
)
async def test_a_name_with_line_ends_is_not_found_or_not_valid(
    method: str, path: str, body: object, served: Served
) -> None:
    reply = await served.send(method, path, json=body)
    assert reply.status in (400, 404)
    assert "no such route" not in str(reply.json)
    assert (await served.embed(input="x")).status == 200


@pytest.mark.parametrize("name", ["tiny\r\n", "tiny\n", "\ttiny"])
async def test_a_name_that_ends_a_line_ends_no_header(name: str, served: Served) -> None:
    body = {"model": name, "input": "x", "dimensions": 3}
    reply = await served.post("/v1/embeddings", body)
    assert reply.status == 200
    shown = ascii(name)[1:-1]
    assert (
        reply.headers["X-Embedd-Warning"] == f'dimensions=3 is not a matryoshka size of "{shown}"'
    )


@pytest.mark.parametrize(
    "field", ['"keep_alive": ', '"dimensions": ', '"options": {"num_ctx": ', '"input": [']
)
async def test_a_number_of_thousands_of_digits_is_refused_in_words_of_the_server(
    field: str, served: Served
) -> None:
    end = {"{": "}", "[": "]"}.get(field.rstrip('": num_ctx')[-1:], "")
    body = '{"model": "tiny", ' + field + "9" * 5000 + end + "}"
    reply = await served.post("/api/embed", body.encode())
    assert reply.status == 400
    assert reply.json["error"].startswith("invalid JSON in request body: a number has more than")


@pytest.mark.parametrize("value", ["9" * 5000, "-" + "9" * 5000, "9" * 5000 + "h"])
async def test_a_keep_alive_of_thousands_of_digits_is_refused(value: str, served: Served) -> None:
    reply = await served.embed(input="x", keep_alive=value)
    assert reply.status == 400
    assert len(reply.body) < 400
