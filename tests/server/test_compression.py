"""Compressed answers: for clients that ask, of long texts, whole and in slices."""

import gzip
import sys

import pytest

from embedd.server.http.compress import LEAST, choose_coding
from tests.server.serving import Served

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DECOMPRESS = {"gzip": gzip.decompress, "zstd": zstd.decompress}
# Of numbers that differ, so that the body is as long as it looks.
TEXTS = [chr(97 + number % 26) * (1 + number % 50) for number in range(3000)]


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("identity", None),
        ("br", None),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0, gzip;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("*", "zstd"),
        ("*;q=0.1, zstd;q=0", "gzip"),
        ("gzip;q=x", "gzip"),
        ("gzip;level=1", "gzip"),
        (",,", None),
    ],
)
def test_the_coding_is_one_that_the_client_accepts(accepted: str, coding: str | None) -> None:
    assert choose_coding(accepted) == coding


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("count", [200, 3000], ids=["whole", "slices"])
async def test_a_long_answer_is_compressed_for_a_client_that_asks(
    coding: str, count: int, served: Served
) -> None:
    body = {"model": "tiny", "input": TEXTS[:count]}
    plain = await served.send(
        "POST", "/api/embed", json=body, headers={"Accept-Encoding": "identity"}
    )
    assert "Content-Encoding" not in plain.headers
    assert len(plain.body) > LEAST
    headers = {"Accept-Encoding": coding, "Origin": "http://localhost:3000"}
    url = served.client.make_url("/api/embed")
    async with served.client.session.post(
        url, json=body, headers=headers, auto_decompress=False
    ) as reply:
        data = await reply.read()
    assert (reply.status, reply.headers["Content-Encoding"]) == (200, coding)
    assert reply.headers["Vary"] == "Origin, Accept-Encoding"
    assert len(data) < len(plain.body)
    start = plain.body.index(b"[")
    assert DECOMPRESS[coding](data)[start : start + LEAST] == plain.body[start : start + LEAST]


async def test_short_answers_are_sent_as_they_are(served: Served) -> None:
    headers = {"Accept-Encoding": "gzip, zstd"}
    asked = [
        ("POST", "/api/embed", {"model": "tiny", "input": "x"}),
        ("GET", "/", None),
        ("HEAD", "/openapi.json", None),
    ]
    for method, path, body in asked:
        reply = await served.send(method, path, json=body, headers=headers)
        assert reply.status == 200
        assert "Content-Encoding" not in reply.headers, path


async def test_documents_are_compressed_too(served: Served) -> None:
    for path in ("/openapi.json", "/docs/swagger-ui-bundle.js"):
        reply = await served.send("GET", path, headers={"Accept-Encoding": "gzip"})
        assert reply.headers["Content-Encoding"] == "gzip"
        assert int(reply.headers["Content-Length"]) < len(reply.body)
