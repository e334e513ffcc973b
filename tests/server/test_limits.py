"""Limits on bodies, clients that leave, and internal errors."""

import asyncio
import contextlib
import gzip
import io
import logging
import threading
from collections.abc import AsyncIterator, Container

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from embedd.server.dialects.base import Policy
from embedd.server.http import decompress
from embedd.server.http.bodies import BodyLimits
from embedd.server.http.connection import SERVER_NAME
from embedd.server.http.decompress import read_decompressed
from embedd.server.http.large_json import LargeJson
from embedd.server.http.timeouts import TIMEOUTS, Timeouts
from tests.server.serving import MIB, OpenServer, RawClient, Served, until

TOO_LARGE = {
    "error": "request body too large: the limit is 1000 bytes (EMBEDD_MAX_BODY)",
    "limit": 1000,
}
BUSY = {"error": "server busy, please try again.  maximum pending requests exceeded"}


def padded(size: int) -> bytes:
    body = b'{"model":"tiny","input":"x"}'
    return body + b" " * (size - len(body))


async def in_chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 300):
        yield data[start : start + 300]


async def test_a_body_over_the_limit_is_413_however_it_comes(open_server: OpenServer) -> None:
    served: Served = await open_server(bodies=BodyLimits(max_body=1000, max_in_flight=8000))
    for path in ("/api/embed", "/api/embeddings", "/api/generate", "/api/chat"):
        assert (await served.post(path, padded(1000))).status == 200
        for data in (padded(1001), in_chunks(padded(1001))):
            reply = await served.send("POST", path, data=data)
            assert (reply.status, reply.json) == (413, TOO_LARGE)


async def test_the_limit_counts_the_decompressed_bytes(open_server: OpenServer) -> None:
    served: Served = await open_server(bodies=BodyLimits(max_body=1000, max_in_flight=8000))
    headers = {"Content-Encoding": "gzip"}
    for size, status in ((1000, 200), (1001, 413), (5 * MIB, 413)):
        data = gzip.compress(padded(size))
        reply = await served.send("POST", "/api/embed", data=data, headers=headers)
        assert reply.status == status


async def test_a_short_request_is_answered_while_a_long_body_is_decoded(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, turns = threading.Event(), []
    parse = LargeJson.parse_fields

    def parse_when_answered(self: LargeJson, known: Container[str]) -> dict[str, object]:
        turns.append(answered.wait(60))
        return parse(self, known)

    monkeypatch.setattr(LargeJson, "parse_fields", parse_when_answered)
    for path, key in (("/api/embed", "input"), ("/v1/embeddings", "input"), ("/embed", "inputs")):
        answered.clear()
        body = b'{"model":"tiny","%b":[%b[1]]}' % (key.encode(), b"[1]," * 200_000)
        long = asyncio.create_task(served.post(path, body))
        assert (await served.embed(input="x")).status == 200
        answered.set()
        refused = await long
        assert refused.status in (400, 422)
        assert b"200001" in refused.body
    assert turns == [True] * 3


async def test_ollama_takes_a_limited_number_of_inputs(open_server: OpenServer) -> None:
    served: Served = await open_server(policy=Policy(max_inputs=1, max_ollama_inputs=3))
    assert (await served.embed(input=["x"] * 3)).status == 200
    assert (await served.embed(input=[1] * 4)).status == 200  # one input of four tokens
    for inputs in (["x"] * 4, [[1]] * 4):
        refused = await served.embed(input=inputs)
        assert refused.status == 400
        assert refused.json == {
            "error": "too many inputs: 4, the limit is 3 (EMBEDD_MAX_OLLAMA_INPUTS): "
            "send fewer at a time",
            "limit": 3,
        }


async def test_the_usual_limit_is_64_mib(served: Served) -> None:
    reply = await served.send("POST", "/api/embed", data=io.BytesIO(b" " * (70 * MIB)))
    assert reply.status == 413
    assert reply.json["limit"] == 67108864
    assert "67108864 bytes (EMBEDD_MAX_BODY)" in reply.json["error"]


async def test_a_body_that_is_not_encoded_as_it_says_is_the_callers_error(served: Served) -> None:
    headers = {"Content-Encoding": "gzip"}
    reply = await served.send("POST", "/api/embed", data=b"junk", headers=headers)
    assert reply.status == 400
    assert reply.json["error"].startswith("cannot read the request body: ")


async def test_chunked_bodies_are_bodies(served: Served) -> None:
    reply = await served.send("POST", "/api/embed", data=in_chunks(padded(900)))
    assert reply.json["prompt_eval_count"] == 3


async def test_the_bytes_of_all_bodies_in_flight_are_limited(open_server: OpenServer) -> None:
    served: Served = await open_server(bodies=BodyLimits(max_body=1000, max_in_flight=4000))
    served.loads.gate.clear()
    first = asyncio.create_task(served.post("/api/embed", padded(1000)))
    await until(lambda: served.loads.names != [])
    refused = await served.post("/api/embed", padded(1000))
    assert (refused.status, refused.json) == (503, BUSY)
    assert "Retry-After" in refused.headers
    small = asyncio.create_task(served.post("/api/embed", padded(400)))
    served.loads.gate.set()
    assert [(await one).status for one in (first, small)] == [200, 200]
    assert (await served.post("/api/embed", padded(1000))).status == 200


async def test_the_only_body_in_flight_is_always_accepted(open_server: OpenServer) -> None:
    served: Served = await open_server(bodies=BodyLimits(max_body=1000, max_in_flight=10))
    assert (await served.post("/api/embed", padded(1000))).status == 200


async def test_uploads_that_stall_lock_out_neither_other_clients_nor_small_requests(
    open_server: OpenServer,
) -> None:
    """Eight that stop one byte early."""
    limits = BodyLimits(max_body=1000, max_in_flight=8000)
    served: Served = await open_server(bodies=limits)
    uploads = [RawClient(served.port) for _ in range(8)]
    for upload in uploads:
        await upload.post(padded(999), 1000)
    refused = [await upload.status() for upload in uploads[3:]]
    assert refused == [503] * 5, "an address has half, in which a body leaves as much free"
    assert (await served.post("/api/embed", padded(400))).status == 200
    assert (await served.post("/api/embed", padded(1000))).status == 503
    other = RawClient(served.port, "127.0.0.2")
    await other.post(padded(1000))
    assert await other.status() == 200
    for upload in [*uploads, other]:
        await upload.close()


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings", f"/api/blobs/sha256:{'0' * 64}"])
async def test_a_body_that_makes_no_progress_is_a_timeout_and_frees_its_bytes(
    path: str, open_server: OpenServer
) -> None:
    served: Served = await open_server(
        bodies=BodyLimits(max_body=1000, max_in_flight=1000), timeouts=Timeouts(body=0.05)
    )
    stalled = RawClient(served.port)
    await stalled.post(padded(900), 901, path)
    assert await stalled.status() == 408
    assert b"made no progress for 0.05 s (EMBEDD_BODY_TIMEOUT)" in await stalled.reader.read(1000)
    assert (await served.post("/api/embed", padded(900))).status == 200
    await stalled.close()


async def test_a_slow_body_that_makes_progress_is_read(open_server: OpenServer) -> None:
    served: Served = await open_server(timeouts=Timeouts(body=1.0))

    async def slowly() -> AsyncIterator[bytes]:
        for start in range(0, 12_000, 1000):
            yield padded(12_000)[start : start + 1000]
            await asyncio.sleep(0.1)

    assert (await served.send("POST", "/api/embed", data=slowly())).status == 200


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings", f"/api/blobs/sha256:{'0' * 64}"])
async def test_a_body_that_trickles_is_a_timeout(
    path: str, open_server: OpenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is progress, and the whole would never come."""
    monkeypatch.setattr(decompress, "LOOK", 0.01)
    served: Served = await open_server(timeouts=Timeouts(body=0.2))
    trickling = RawClient(served.port)
    await trickling.post(b"{", 900, path)

    async def trickle() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await asyncio.sleep(0.05)
                await trickling.send(b" ")

    sending = asyncio.create_task(trickle())
    async with asyncio.timeout(60):
        assert await trickling.status() == 408
    sending.cancel()
    rest = await trickling.reader.read(1000)
    assert b"came with less than 500 bytes a second, after 0.2 s (EMBEDD_BODY_TIMEOUT)" in rest
    await trickling.close()


async def test_time_that_the_server_takes_for_a_piece_is_not_the_clients() -> None:
    pieces = list[bytes]()
    taken = asyncio.Event()

    async def read(request: web.Request) -> web.Response:
        async for piece in read_decompressed(request):
            await asyncio.sleep(0.2)
            pieces.append(piece)
            taken.set()
        return web.Response()

    app = web.Application()
    app[TIMEOUTS] = Timeouts(body=0.3)
    app.router.add_post("/", read)
    async with TestClient(TestServer(app)) as client:
        port = client.port
        assert port is not None
        sending = RawClient(port)
        await sending.post(b"x", 4, "/")
        for _ in range(3):
            await taken.wait()
            taken.clear()
            await sending.send(b"x")
        assert await sending.status() == 200
        await sending.close()
    assert pieces == [b"x"] * 4


async def test_a_client_that_leaves_stops_its_request_and_no_other(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    await served.embed(input="x")
    [model] = served.loads.models
    model.gate.clear()
    leaving = asyncio.create_task(served.embed(input=["x"] * 10_000))
    await until(lambda: model.waiting == 1)
    staying = asyncio.create_task(served.embed(input="x"))
    await until(lambda: model.waiting == 2)
    leaving.cancel()
    await until(lambda: model.waiting == 1)
    before = model.batches
    model.gate.set()
    assert (await staying).status == 200
    assert model.batches == before + 1
    assert [record.__dict__.get("status") for record in caplog.records].count(499) == 1


async def test_a_client_that_leaves_is_logged_once_where_the_body_chooses_the_dialect(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    await served.embed(input="x")
    [model] = served.loads.models
    model.gate.clear()
    body = {"model": "tiny", "input": "a"}
    leaving = asyncio.create_task(served.post("/api/embeddings", body))
    await until(lambda: model.waiting == 1)
    leaving.cancel()
    await until(lambda: model.waiting == 0)
    await until(lambda: bool(caplog.records))
    assert [record.__dict__.get("status") for record in caplog.records].count(499) == 1


async def test_a_client_that_leaves_in_the_middle_of_its_body_frees_its_bytes(
    served: Served,
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", served.client.port)
    writer.write(b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await served.embed(input="x")).status == 200


async def test_a_crash_is_an_internal_error_with_the_traceback_in_the_log_only(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await served.embed(input=[])

    async def crash(_: object, **__: bool) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(served.loads.models[0], "tokenize", crash)
    reply = await served.embed(input="the user's text")
    assert (reply.status, reply.json) == (500, {"error": "internal error"})
    assert "a secret detail" in caplog.text
    assert "the user's text" not in caplog.text
    monkeypatch.undo()
    assert (await served.embed(input="x")).status == 200


async def test_every_failed_request_is_logged(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    await served.embed(input=5)
    await served.embed(model="nope")
    await served.send("GET", "/nope")
    await served.send("GET", "/api/embed")
    await served.send("GET", "/", headers={"Origin": "https://evil.example"})
    assert [record.__dict__["status"] for record in caplog.records] == [400, 404, 404, 405, 403]


async def test_every_answer_names_the_server(served: Served) -> None:
    replies = [
        await served.send("GET", "/"),
        await served.send("GET", "/nope"),
        await served.embed(input=["x"] * 100),
        await served.embed(input=5),
    ]
    assert {reply.headers["Server"] for reply in replies} == {SERVER_NAME}


ROW = 32 * 4  # bytes of a vector of the model "tiny"


async def test_the_bytes_of_an_answer_are_counted_before_a_model_is_loaded(
    open_server: OpenServer,
) -> None:
    served: Served = await open_server(max_answer=3 * ROW)
    for path, key in (("/api/embed", "input"), ("/v1/embeddings", "input"), ("/embed", "inputs")):
        refused = await served.post(path, {"model": "tiny", key: ["x"] * 4})
        assert refused.status == 413
        assert b"4 vectors of 32 numbers, 512 bytes; the limit is 384" in refused.body
    assert served.loads.names == []
    assert (await served.embed(input=["x"] * 3)).status == 200
    refused = await served.post("/embed_all", {"model": "tiny", "inputs": "a longer text"})
    assert refused.status == 413, "tokens are counted, not inputs"
    refused = await served.embed(input="a longer text", chunk={"tokens": 1})
    assert refused.status == 413, "chunks are counted, not inputs"
