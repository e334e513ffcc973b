"""OpenAI's Batch API over HTTP: files, batches, restarts, cancellation, owners and limits."""

import asyncio
import io
import json
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from embedd.embedder.embedder import Embedder
from embedd.errors import UnavailableError
from embedd.server.access.auth import Keys
from embedd.server.batches.shelf import Shelf
from embedd.types import EmbedRequest, EmbedResult
from tests.key_watch import MARK
from tests.server.serving import OpenServer, RawClient, Reply, Served, until

EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"
ENDED = ("completed", "failed", "cancelled", "expired")
FIRST, SECOND = f"{MARK}first", f"{MARK}second"


def embed_line(name: str, text: str, model: str = "tiny", **changes: object) -> dict[str, object]:
    body = {"model": model, "input": text}
    return {"custom_id": name, "method": "POST", "url": EMBEDDINGS, "body": body, **changes}


def to_lines(lines: Sequence[object]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


async def upload(served: Served, content: bytes, *, key: str | None = None, **fields: str) -> Reply:
    form = aiohttp.FormData()
    for name, value in {"purpose": "batch", **fields}.items():
        form.add_field(name, value)
    form.add_field("file", io.BytesIO(content), filename="../../in.jsonl")
    return await served.send("POST", "/v1/files", data=form, headers=bearer(key))


async def create(
    served: Served, file: str, *, key: str | None = None, endpoint: str = EMBEDDINGS, **fields: Any
) -> Reply:
    body = {"input_file_id": file, "endpoint": endpoint, "completion_window": "24h", **fields}
    return await served.send("POST", "/v1/batches", json=body, headers=bearer(key))


async def wait_for(
    served: Served, batch: str, states: Sequence[str] = ENDED, *, key: str | None = None
) -> Any:
    async with asyncio.timeout(110):
        while True:
            path = f"/v1/batches/{batch}"
            shown = (await served.send("GET", path, headers=bearer(key))).json
            if shown["status"] in states:
                return shown
            await asyncio.sleep(0.005)


async def run(served: Served, lines: Sequence[object], endpoint: str = EMBEDDINGS) -> Any:
    file = (await upload(served, to_lines(lines))).json["id"]
    return await wait_for(served, (await create(served, file, endpoint=endpoint)).json["id"])


async def read_lines(served: Served, file: str) -> list[Any]:
    reply = await served.send("GET", f"/v1/files/{file}/content")
    assert reply.status == 200
    return [json.loads(line) for line in reply.body.splitlines()]


async def test_a_batch_answers_every_line_as_the_route_does(served: Served) -> None:
    batch = await run(served, [embed_line(f"n{i}", f"text {i % 7}") for i in range(1200)])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 1200, "completed": 1200, "failed": 0}
    assert batch["error_file_id"] is None
    lines = await read_lines(served, batch["output_file_id"])
    assert [line["custom_id"] for line in lines] == [f"n{i}" for i in range(1200)]
    direct = (await served.post(EMBEDDINGS, {"model": "tiny", "input": "text 3"})).json
    response = lines[10]["response"]
    assert (response["status_code"], lines[10]["error"]) == (200, None)
    assert response["body"]["data"] == direct["data"]
    assert batch["usage"]["total_tokens"] == sum(
        line["response"]["body"]["usage"]["total_tokens"] for line in lines
    )


async def test_a_batch_reranks(served: Served) -> None:
    body = {"model": "ranker", "query": "a", "documents": ["b", "c"]}
    line = {"custom_id": "r", "method": "POST", "url": RERANK, "body": body}
    batch = await run(served, [line], RERANK)
    [answer] = await read_lines(served, batch["output_file_id"])
    direct = (await served.post(RERANK, body)).json
    assert answer["response"]["body"]["results"] == direct["results"]


async def test_requests_that_fail_go_to_the_file_of_errors(served: Served) -> None:
    lines = [embed_line("good", "a"), embed_line("bad", "a", model="missing")]
    batch = await run(served, lines)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    [error] = await read_lines(served, batch["error_file_id"])
    assert error["custom_id"] == "bad"
    assert error["response"]["status_code"] == 404
    assert error["response"]["body"]["error"]["code"] == "model_not_found"


async def test_nothing_is_computed_if_a_line_is_not_valid(served: Served) -> None:
    lines = [
        embed_line("a", "x"),
        embed_line("a", "y"),
        embed_line("b", "z", method="GET"),
        embed_line("c", "z", url=RERANK),
        {"custom_id": "d"},
    ]
    content = to_lines(lines) + b"\nnot JSON\n"
    file = (await upload(served, content)).json["id"]
    batch = await wait_for(served, (await create(served, file)).json["id"])
    assert batch["status"] == "failed"
    assert [(one["line"], one["code"]) for one in batch["errors"]["data"]] == [
        (2, "duplicate_custom_id"),
        (3, "invalid_method"),
        (4, "invalid_url"),
        (5, "invalid_request"),
        (7, "invalid_json_line"),
    ]
    assert batch["output_file_id"] is None
    assert served.loads.names == []


async def test_an_empty_file_fails(served: Served) -> None:
    batch = await run(served, [])
    assert [one["code"] for one in batch["errors"]["data"]] == ["empty_file"]


async def test_a_cancelled_batch_keeps_what_was_computed(served: Served) -> None:
    await served.embed(input="a")
    [model] = served.loads.models
    model.gate.clear()
    lines = [embed_line(str(i), f"text {i}") for i in range(1000)]
    file = (await upload(served, to_lines(lines))).json["id"]
    id_ = (await create(served, file)).json["id"]
    await wait_for(served, id_, ["in_progress"])
    refused = await served.send("DELETE", f"/v1/files/{file}")
    assert refused.status == 400
    cancelled = await served.post(f"/v1/batches/{id_}/cancel", {})
    assert cancelled.json["status"] == "cancelling"
    model.gate.set()
    batch = await wait_for(served, id_)
    assert batch["status"] == "cancelled"
    counts = batch["request_counts"]
    assert counts["completed"] + counts["failed"] == 1000
    assert counts["failed"] > 0
    errors = await read_lines(served, batch["error_file_id"])
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    again = await served.post(f"/v1/batches/{id_}/cancel", {})
    assert again.status == 400


async def test_a_batch_goes_on_after_a_restart(open_server: OpenServer) -> None:
    first: Served = await open_server()
    await first.embed(input="a")
    [model] = first.loads.models
    lines = [embed_line(str(i), f"text {i}") for i in range(1200)]
    file = (await upload(first, to_lines(lines))).json["id"]
    id_ = (await create(first, file)).json["id"]
    async with asyncio.timeout(110):
        while True:
            shown = (await first.send("GET", f"/v1/batches/{id_}")).json
            if shown["request_counts"]["completed"] > 500:
                break
            await asyncio.sleep(0.001)
    model.gate.clear()
    await first.client.close()
    second: Served = await open_server()
    batch = await wait_for(second, id_)
    assert batch["status"] == "completed"
    answers = await read_lines(second, batch["output_file_id"])
    assert [line["custom_id"] for line in answers] == [str(i) for i in range(1200)]


async def test_files_and_batches_belong_to_the_key_that_sent_them(open_server: OpenServer) -> None:
    served: Served = await open_server(keys=Keys(listed=[FIRST, SECOND]))
    file = (await upload(served, to_lines([embed_line("a", "x")]), key=FIRST)).json["id"]
    batch = (await create(served, file, key=FIRST)).json["id"]
    await wait_for(served, batch, key=FIRST)
    for method, path in (
        ("GET", f"/v1/files/{file}"),
        ("GET", f"/v1/files/{file}/content"),
        ("DELETE", f"/v1/files/{file}"),
        ("GET", f"/v1/batches/{batch}"),
        ("POST", f"/v1/batches/{batch}/cancel"),
    ):
        reply = await served.send(method, path, headers=bearer(SECOND))
        assert (reply.status, reply.json["error"]["type"]) == (404, "invalid_request_error")
    assert (await create(served, file, key=SECOND)).status == 404
    for path, count in (("/v1/files", 2), ("/v1/batches", 1)):
        listed = [
            len((await served.send("GET", path, headers=bearer(key))).json["data"])
            for key in (FIRST, SECOND)
        ]
        assert listed == [count, 0]


async def test_a_key_may_keep_half_of_all_bytes(open_server: OpenServer) -> None:
    served: Served = await open_server(keys=Keys(listed=[FIRST, SECOND]), batch_bytes=200_000)
    refused = await upload(served, bytes(100_000), key=FIRST)
    assert (refused.status, refused.json["error"]["code"]) == (413, "request_too_large")
    kept = [await upload(served, bytes(80_000), key=FIRST)]
    assert (await upload(served, bytes(80_000), key=FIRST)).status == 413
    kept.append(await upload(served, bytes(80_000), key=SECOND))
    assert [one.status for one in kept] == [200, 200]
    path = f"/v1/files/{kept[0].json['id']}"
    deleted = await served.send("DELETE", path, headers=bearer(FIRST))
    assert deleted.json == {"id": kept[0].json["id"], "object": "file", "deleted": True}
    assert (await upload(served, bytes(80_000), key=FIRST)).status == 200


async def test_a_batch_whose_results_are_too_many_fails_and_keeps_what_it_has(
    open_server: OpenServer,
) -> None:
    served: Served = await open_server(batch_bytes=700_000)
    batch = await run(served, [embed_line(str(i), "text") for i in range(2000)])
    assert batch["status"] == "failed"
    assert [one["code"] for one in batch["errors"]["data"]] == ["storage_limit_exceeded"]
    assert batch["request_counts"]["completed"] < 2000


async def test_texts_lie_in_private_files_of_random_names(served: Served, tmp_path: Path) -> None:
    batch = await run(served, [embed_line("a", "x")])
    folder = tmp_path / "state" / "batches"
    await until(lambda: not list(folder.rglob(".tmp-*")))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    places = [path for path in folder.rglob("*batch*") if path.is_file()]
    places += [path for path in folder.rglob("file-*") if path.is_file()]
    assert len(places) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in places} == {0o600}
    shown = (await served.send("GET", f"/v1/files/{batch['input_file_id']}")).json
    assert shown["filename"].endswith("in.jsonl")
    content = await served.send("GET", f"/v1/files/{batch['input_file_id']}/content")
    assert content.headers["X-Content-Type-Options"] == "nosniff"
    assert content.headers["Content-Disposition"].startswith("attachment; filename=")
    assert ".." not in content.headers["Content-Disposition"]


async def test_lists_begin_with_what_is_newest_also_of_one_second_and_after_a_restart(
    open_server: OpenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = int(time.time())
    monkeypatch.setattr(Shelf, "now", second)
    served: Served = await open_server()
    files = [(await upload(served, b"x")).json["id"] for _ in range(8)]
    batches = [(await create(served, file)).json["id"] for file in files]
    for id_ in batches:
        await wait_for(served, id_)

    async def check(served: Served) -> None:
        for path, newest in (("files", files[::-1]), ("batches", batches[::-1])):
            listed = (await served.send("GET", f"/v1/{path}")).json["data"]
            assert {one["created_at"] for one in listed} == {second}
            assert [one["id"] for one in listed] == newest
            listed = (await served.send("GET", f"/v1/{path}?order=asc")).json["data"]
            assert [one["id"] for one in listed] == newest[::-1]

    await check(served)
    await served.client.close()
    served = await open_server()
    await check(served)
    file = (await upload(served, b"x")).json["id"]
    assert (await served.send("GET", "/v1/files")).json["data"][0]["id"] == file


async def test_lists_come_in_pages(served: Served) -> None:
    ids = {(await upload(served, b"x")).json["id"] for _ in range(3)}
    first = (await served.send("GET", "/v1/files?limit=2")).json
    assert first["has_more"]
    rest = (await served.send("GET", f"/v1/files?limit=2&after={first['last_id']}")).json
    assert not rest["has_more"]
    assert {one["id"] for one in first["data"] + rest["data"]} == ids
    for query in ("limit=0", "limit=x", "order=up", "after=file-0"):
        assert (await served.send("GET", f"/v1/files?{query}")).status == 400
    assert (await served.send("GET", "/v1/files?purpose=batch_output")).json["data"] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": None}, "input_file_id"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"output_expires_after": {"anchor": "x", "seconds": 3600}}, "output_expires_after"),
    ],
)
async def test_a_batch_that_is_not_valid_names_the_field(
    served: Served, fields: dict[str, Any], param: str
) -> None:
    file = (await upload(served, to_lines([embed_line("a", "x")]))).json["id"]
    reply = await create(served, file, **fields)
    assert (reply.status, reply.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ("endpoint", "endpoint is missing: it must be /v1/embeddings or /v1/rerank"),
        ("completion_window", "completion_window is missing: it must be 24h"),
        ("input_file_id", "input_file_id is missing: it must be the id of a file that was "),
        ("seconds", "output_expires_after.seconds is missing: it must be 3600 to 2592000"),
        ("anchor", "output_expires_after.anchor is missing: it must be created_at"),
    ],
)
async def test_a_field_that_a_batch_lacks_is_called_missing(
    served: Served, left_out: str, expected: str
) -> None:
    keep = {"anchor": "created_at", "seconds": 3600}
    keep.pop(left_out, None)
    body = {
        "input_file_id": "file-1",
        "endpoint": EMBEDDINGS,
        "completion_window": "24h",
        "output_expires_after": keep,
    }
    body.pop(left_out, None)
    reply = await served.send("POST", "/v1/batches", json=body)
    assert reply.status == 400
    assert reply.json["error"]["message"].startswith(expected)


async def test_a_field_that_an_upload_lacks_is_called_missing(served: Served) -> None:
    for present, expected in (
        ({"other": "x"}, "purpose is missing: it must be batch"),
        ({"purpose": "batch"}, "file is missing: it must be the file of requests"),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at"},
            "expires_after.seconds is missing: it must be 3600 to 2592000",
        ),
    ):
        form = aiohttp.FormData(present, default_to_multipart=True)
        reply = await served.send("POST", "/v1/files", data=form)
        assert reply.status == 400
        assert reply.json["error"]["message"].startswith(expected)


async def test_an_upload_needs_a_purpose_and_a_file(served: Served, tmp_path: Path) -> None:
    assert (await upload(served, b"x", purpose="assistants")).json["error"]["param"] == "purpose"
    form = aiohttp.FormData({"purpose": "batch"}, default_to_multipart=True)
    reply = await served.send("POST", "/v1/files", data=form)
    assert reply.json["error"]["param"] == "file"
    assert (await served.post("/v1/files", {"purpose": "batch"})).status == 400
    assert list((tmp_path / "state" / "batches" / "files").iterdir()) == []


async def test_a_file_is_kept_as_long_as_is_asked_for(served: Served) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = (await upload(served, b"x", **fields)).json
    assert file["expires_at"] - file["created_at"] == 3600


async def test_a_second_server_leaves_the_folder_to_the_first(
    open_server: OpenServer, tmp_path: Path
) -> None:
    await open_server()
    second: Served = await open_server()
    reply = await second.send("GET", "/v1/files")
    assert reply.status == 503
    assert "in use" in reply.json["error"]["message"]
    shelf = Shelf(tmp_path / "state" / "batches", limit=1, max_body=1)
    with pytest.raises(UnavailableError), shelf.open():
        pass


async def test_a_form_with_two_files_or_long_fields_is_refused(served: Served) -> None:
    two = aiohttp.FormData({"purpose": "batch"})
    for name in ("a", "b"):
        two.add_field("file", b"x", filename=name)
    refused = await served.send("POST", "/v1/files", data=two)
    assert "two fields named file" in refused.json["error"]["message"]
    long = await upload(served, b"x", purpose="p" * 70_000)
    assert (long.status, long.json["error"]["type"]) == (400, "invalid_request_error")


async def test_a_large_file_comes_back_as_it_was_sent(served: Served) -> None:
    content = bytes(range(256)) * 12_000
    file = (await upload(served, content)).json
    assert file["bytes"] == len(content)
    path = f"/v1/files/{file['id']}/content"
    assert (await served.send("GET", path)).body == content
    head = await served.send("HEAD", path)
    assert (head.headers["Content-Length"], head.body) == (str(len(content)), b"")


async def test_content_that_is_gone_from_the_disk_is_not_found(
    served: Served, tmp_path: Path
) -> None:
    file = (await upload(served, b"x")).json["id"]
    (tmp_path / "state" / "batches" / "files" / file).unlink()
    assert (await served.send("GET", f"/v1/files/{file}/content")).status == 404


async def test_results_are_not_the_input_of_a_batch(served: Served) -> None:
    batch = await run(served, [embed_line("a", "x")])
    reply = await create(served, batch["output_file_id"])
    assert (reply.status, reply.json["error"]["param"]) == (400, "input_file_id")


async def test_a_crash_of_one_request_fails_that_request_alone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = Embedder.embed

    async def crash(self: Embedder, request: EmbedRequest, **arguments: Any) -> EmbedResult:
        if request.inputs == ["crash"]:
            raise RuntimeError("bug")
        return await embed(self, request, **arguments)

    monkeypatch.setattr(Embedder, "embed", crash)
    batch = await run(served, [embed_line("a", "crash"), embed_line("b", "x")])
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    [error] = await read_lines(served, batch["error_file_id"])
    message = error["response"]["body"]["error"]["message"]
    assert message == f"internal error: request id {error['response']['request_id']}"


async def test_an_upload_that_is_cut_off_leaves_nothing(served: Served, tmp_path: Path) -> None:
    client = RawClient(served.port)
    await client.open()
    part = b'--m\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\ntext'
    head = (
        "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
        "Content-Type: multipart/form-data; boundary=m\r\n\r\n"
    )
    await client.send(head.encode() + part)
    files = tmp_path / "state" / "batches" / "files"
    await until(lambda: files.exists() and len(list(files.iterdir())) == 1)
    await client.close()
    await until(lambda: not list(files.iterdir()))
