"""The client against a small server on loopback: replies, errors, transports."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from embedd.client import NO_SERVER, Client
from embedd.errors import (
    EmbeddError,
    ForbiddenError,
    InvalidInputError,
    ModelNotFoundError,
    OverloadedError,
    PullError,
    RequestError,
    ServiceError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedError,
)
from embedd.types import ChunkPlace, Truncated
from tests.unit.cli.fake_server import FakeServer


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer().listening() as server:
        yield server


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[Client]:
    async with Client(server.url) as client:
        yield client


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address on which nothing listens, and nothing will until the end of the test."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


async def test_a_server_that_answers_is_up(client: Client, server: FakeServer) -> None:
    assert await client.is_up()
    assert server.asked == [("HEAD", "/", {})]


async def test_a_server_that_answers_with_an_error_is_up(
    client: Client, server: FakeServer
) -> None:
    server.refusals["/"] = web.Response(status=403)
    assert await client.is_up()


async def test_without_a_server_the_error_says_what_to_do(nowhere: str) -> None:
    async with Client(nowhere) as client:
        assert not await client.is_up()
        with pytest.raises(UnavailableError) as caught:
            await client.ps()
    assert str(caught.value) == NO_SERVER.format(f"http://{nowhere}")


async def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    async with FakeServer().listening(tmp_path / "s") as server, Client(server.url) as client:
        assert (await client.identify()).version == "0.0.1"


async def test_no_key_is_sent_unless_one_is_given(client: Client, server: FakeServer) -> None:
    await client.tags()
    assert server.keys == {"/api/tags": ""}


@pytest.mark.parametrize(
    ("key", "admin_key", "sent"),
    [("k", None, ("k", "k")), ("k", "boss", ("k", "boss")), (None, "boss", ("", "boss"))],
)
async def test_a_key_is_sent_and_another_where_models_are_managed(
    server: FakeServer, key: str | None, admin_key: str | None, sent: tuple[str, str]
) -> None:
    async with Client(server.url, key=key, admin_key=admin_key) as client:
        await client.embed("all-minilm", ["x"])
        await client.show("all-minilm")
        await client.has_blob("sha256:0")
        await client.copy("all-minilm", "x")
        await client.delete("all-minilm")
    used, managed = (f"Bearer {one}" if one else "" for one in sent)
    assert [server.keys[path] for path in ("/api/embed", "/api/show")] == [used, used]
    for path in ("/api/blobs/sha256:0", "/api/copy", "/api/delete"):
        assert server.keys[path] == managed


async def test_a_missing_unix_socket_is_a_missing_server(tmp_path: Path) -> None:
    async with Client(f"unix:{tmp_path / 's'}") as client:
        assert not await client.is_up()


async def test_a_failed_handshake_is_not_a_missing_server(server: FakeServer) -> None:
    async with Client(server.url.replace("http:", "https:")) as client:
        with pytest.raises(ServiceError, match=r"no safe connection to https://.*try http://"):
            await client.is_up()


async def test_lists_come_typed(client: Client) -> None:
    (stored,) = await client.tags()
    (running,) = await client.ps()
    assert stored.modified_at.microsecond == 639712
    assert running.expires_at.year == 2318
    assert running.size == 58195968


async def test_embed_sends_only_what_is_given(client: Client, server: FakeServer) -> None:
    reply = await client.embed("all-minilm", ["a", "bc"])
    assert reply.embeddings == [[1.0, 0.0, 0.1], [2.0, 1.0, 0.1]]
    assert server.asked[-1] == (
        "POST",
        "/api/embed",
        {"model": "all-minilm", "input": ["a", "bc"]},
    )


async def test_embed_sends_every_option(client: Client, server: FakeServer) -> None:
    await client.embed(
        "all-minilm",
        ["a"],
        truncate=False,
        dimensions=3,
        keep_alive=math.inf,
        input_type="query",
    )
    assert server.asked[-1][2] == {
        "model": "all-minilm",
        "input": ["a"],
        "truncate": False,
        "dimensions": 3,
        "keep_alive": -1.0,
        "input_type": "query",
    }


async def test_embed_reports_what_was_cut(client: Client) -> None:
    reply = await client.embed("all-minilm", ["a", "long enough to cut"])
    assert reply.truncated == [Truncated(index=1, tokens=18, kept=9)]


async def test_too_few_vectors_are_an_error(client: Client, server: FakeServer) -> None:
    server.refusals["/api/embed"] = web.json_response({"model": "m", "embeddings": []})
    with pytest.raises(ServiceError, match="0 vectors came for 1 inputs"):
        await client.embed("all-minilm", ["a"])


PLACES = [
    {"input": 0, "start": 0, "end": 4, "tokens": 2},
    {"input": 0, "start": 4, "end": 9, "tokens": 3},
]


@pytest.mark.parametrize("chunk", [{"tokens": 3}, {"pool": "mean"}])
async def test_chunks_come_with_their_places(
    chunk: dict[str, object], client: Client, server: FakeServer
) -> None:
    rows = [[1.0], [2.0]][: 1 if "pool" in chunk else 2]
    answer = {"model": "m", "embeddings": rows, "chunks": PLACES}
    server.refusals["/api/embed"] = web.json_response(answer)
    reply = await client.embed("all-minilm", ["a long text"], truncate="start", chunk=chunk)
    assert reply.chunks == [ChunkPlace(**place) for place in PLACES]
    assert server.asked[-1][2]["chunk"] == chunk
    assert server.asked[-1][2]["truncate"] == "start"


async def test_a_server_that_ignores_chunk_is_an_error(client: Client) -> None:
    with pytest.raises(ServiceError, match="ignores the field chunk"):
        await client.embed("all-minilm", ["a"], chunk={})


async def test_too_few_vectors_of_chunks_are_an_error(client: Client, server: FakeServer) -> None:
    answer = {"model": "m", "embeddings": [[1.0]], "chunks": PLACES}
    server.refusals["/api/embed"] = web.json_response(answer)
    with pytest.raises(ServiceError, match="1 vectors came for 2"):
        await client.embed("all-minilm", ["a"], chunk={})


async def test_unload_is_a_generate_without_keep_alive(client: Client, server: FakeServer) -> None:
    await client.unload("all-minilm")
    assert server.asked == [("POST", "/api/generate", {"model": "all-minilm", "keep_alive": 0.0})]


async def test_delete_names_the_model(client: Client, server: FakeServer) -> None:
    await client.delete("all-minilm")
    assert server.models == set()
    with pytest.raises(ModelNotFoundError):
        await client.delete("all-minilm")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidInputError),
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (404, ModelNotFoundError),
        (409, RequestError),
        (413, TooLargeError),
        (429, OverloadedError),
        (500, ServiceError),
        (501, UnsupportedError),
        (503, OverloadedError),
    ],
)
async def test_the_status_decides_the_error_and_the_server_its_text(
    client: Client, server: FakeServer, status: int, kind: type[EmbeddError]
) -> None:
    server.refusals["/api/ps"] = web.json_response({"error": "the text"}, status=status)
    with pytest.raises(EmbeddError) as caught:
        await client.ps()
    assert type(caught.value) is kind
    assert str(caught.value) == "the text"


async def test_the_facts_of_an_error_arrive(client: Client, server: FakeServer) -> None:
    server.refusals["/api/embed"] = web.json_response(
        {"error": "too long", "index": 0, "tokens": 8, "limit": 3}, status=400
    )
    with pytest.raises(InvalidInputError) as caught:
        await client.embed("all-minilm", ["a"])
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (0, 8, 3)


async def test_a_proxy_whose_server_is_away_is_no_failure_of_the_server(
    client: Client, server: FakeServer
) -> None:
    page = web.Response(status=502, text="<html>", content_type="text/html")
    server.refusals["/v1/embeddings"] = page
    for ask in (
        client.embed_arrays("all-minilm", ["a"]),
        client.post_as_it_is("/v1/embeddings", b"{}"),
    ):
        with pytest.raises(UnavailableError, match="502 Bad Gateway"):
            await ask


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("soon", 1), ("0", 1)])
async def test_a_full_server_says_when_to_come_back(
    client: Client, server: FakeServer, header: str, seconds: int
) -> None:
    server.refusals["/api/ps"] = web.json_response(
        {"error": "busy"}, status=503, headers={"Retry-After": header}
    )
    with pytest.raises(OverloadedError) as caught:
        await client.ps()
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (web.Response(status=404, text="404 page not found\n"), "404 page not found"),
        (web.Response(status=403), "403 Forbidden: is it an embedd server?"),
    ],
)
async def test_a_404_that_is_not_json_is_not_a_missing_model(
    client: Client, server: FakeServer, response: web.Response, text: str
) -> None:
    server.refusals["/api/ps"] = response
    with pytest.raises(RequestError) as caught:
        await client.ps()
    assert not isinstance(caught.value, ModelNotFoundError)
    assert str(caught.value).endswith(text)


@pytest.mark.parametrize("text", ["hello", '{"models":[{"name":1}]}', ""])
async def test_a_reply_of_another_kind_is_an_error(
    client: Client, server: FakeServer, text: str
) -> None:
    server.refusals["/api/ps"] = web.Response(text=text)
    with pytest.raises(ServiceError, match="reply is not understood"):
        await client.ps()


async def test_a_connection_that_breaks_is_an_error() -> None:
    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        async with Client(url) as client:
            with pytest.raises(UnavailableError, match=f"lost {url}"):
                await client.ps()


async def test_a_pull_ends_with_success(client: Client) -> None:
    statuses = [line.status async for line in client.pull("x", insecure=True)]
    assert statuses == ["pulling manifest", "success"]


@pytest.mark.parametrize(
    ("last", "text"),
    [({"error": "no such file"}, "no such file"), ({"status": "x"}, "without a result")],
)
async def test_a_pull_that_fails_is_an_error(
    server: FakeServer, client: Client, last: dict[str, str], text: str
) -> None:
    server.pull_lines = ({"status": "pulling manifest"}, last)
    with pytest.raises(PullError, match=text):
        async for _ in client.pull("x"):
            pass


@pytest.mark.parametrize(
    "lines",
    [[b'{"status":"success"}\n'], [b'{"error":"no"}\n']],
    ids=["success", "error"],
)
async def test_a_stream_is_read_to_its_end(lines: list[bytes]) -> None:
    """A client that leaves after the last line looks like one that gave up."""
    sent, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def pull(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(line)
        sent.set()
        await release.wait()
        await response.write_eof()
        ended.set()
        return response

    app = web.Application()
    app.router.add_post("/api/pull", pull)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    async def ask() -> list[str]:
        async with Client(f"127.0.0.1:{port}") as client:
            return [line.status async for line in client.pull("m")]

    try:
        asking = asyncio.create_task(ask())
        await sent.wait()
        release.set()
        await asyncio.wait([asking])
        assert ended.is_set()
    finally:
        await runner.cleanup()


async def test_arrays_come_as_base64_in_the_order_of_the_inputs(
    client: Client, server: FakeServer
) -> None:
    answer = await client.embed_arrays(
        "all-minilm", ["a", "bb", "c" * 101], dimensions=3, input_type="document", store=False
    )
    assert answer.vectors.dtype == np.float32
    np.testing.assert_array_equal(answer.vectors[:, 0], [1, 2, 101])
    assert (answer.tokens, answer.cut, answer.chunks) == (104, 1, None)
    assert answer.served_by == server.backend
    [(_, path, body)] = server.asked
    assert (path, body["encoding_format"], body["dimensions"]) == ("/v1/embeddings", "base64", 3)


async def test_half_precision_is_rounded_here_and_bytes_come_as_they_are(
    client: Client, server: FakeServer
) -> None:
    halves = await client.embed_arrays("all-minilm", ["a"], dtype="float16")
    assert halves.vectors.dtype == np.float16
    packed = await client.embed_arrays("all-minilm", ["a"], dtype="ubinary")
    assert packed.vectors.dtype == np.uint8
    asked = [body.get("output_dtype") for _, _, body in server.asked]
    assert asked == [None, "ubinary"]


async def test_a_text_alone_has_one_vector(client: Client, server: FakeServer) -> None:
    assert len((await client.embed("all-minilm", "abc")).embeddings) == 1
    assert len(await client.embed_as_openai("all-minilm", "abc")) == 1
    assert len((await client.embed_arrays("all-minilm", "abc")).vectors) == 1
    [answer] = [one async for one in client.embed_many("all-minilm", "abc")]
    assert len(answer.vectors) == 1
    assert [body["input"] for _, _, body in server.asked] == [["abc"]] * 4


async def test_an_unknown_type_of_numbers_is_refused(client: Client, server: FakeServer) -> None:
    with pytest.raises(InvalidInputError, match="dtype is 'foo': it must be one of float32, "):
        await client.embed_arrays("all-minilm", ["a"], dtype="foo")
    assert not server.asked


async def test_an_error_of_openais_routes_has_its_facts(client: Client) -> None:
    with pytest.raises(InvalidInputError, match="a bad text") as caught:
        await client.embed_arrays("all-minilm", ["a", "bad"])
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (1, 9, 8)


async def test_arrays_that_are_missing_are_an_error(client: Client, server: FakeServer) -> None:
    server.refusals["/v1/embeddings"] = web.json_response({"data": []})
    with pytest.raises(ServiceError, match="0 vectors came for 2 inputs"):
        await client.embed_arrays("all-minilm", ["a", "b"])


@pytest.mark.parametrize("is_async", [False, True])
async def test_many_texts_are_embedded_in_order_some_requests_at_a_time(
    client: Client, server: FakeServer, *, is_async: bool
) -> None:
    texts = ["x" * number for number in range(25)]
    taken = 0

    def take() -> Iterator[str]:
        nonlocal taken
        for text in texts:
            taken += 1
            yield text

    async def take_async() -> AsyncIterator[str]:
        for text in take():
            yield text

    source = take_async() if is_async else take()
    lengths: list[float] = []
    async with aclosing(client.embed_many("all-minilm", source, batch=4, concurrency=2)) as answers:
        async for answer in answers:
            lengths += answer.vectors[:, 0].tolist()
            assert taken <= len(lengths) + 8
    assert lengths == list(range(25))
    assert [len(body["input"]) for _, _, body in server.asked] == [4] * 6 + [1]


async def test_many_texts_wait_for_a_busy_server_and_end_at_an_error(
    client: Client, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        server.refusals.clear()

    monkeypatch.setattr("embedd.client.client.asyncio.sleep", sleep)
    busy = web.json_response({"error": "busy"}, status=503, headers={"Retry-After": "3"})
    server.refusals["/v1/embeddings"] = busy
    [answer] = [one async for one in client.embed_many("all-minilm", ["a"])]
    assert len(answer.vectors) == 1
    assert slept == [3]
    with pytest.raises(InvalidInputError, match="a bad text"):
        [one async for one in client.embed_many("all-minilm", ["a", "bad", "c"], batch=1)]


async def test_both_forms_of_the_header_for_texts_that_were_cut_are_counted(
    client: Client, server: FakeServer
) -> None:
    row = {"embedding": "AACAPw==", "index": 0}
    for header, cut in (("count=12; index=0 tokens=9 kept=8; more", 12), ("0,4,9", 3)):
        server.refusals["/v1/embeddings"] = web.json_response(
            {"data": [row]}, headers={"X-Embedd-Truncated": header}
        )
        assert (await client.embed_arrays("all-minilm", ["a"])).cut == cut
