"""The management routes: exact texts, what each changes, and that failures leave nothing."""

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from embedd.errors import NoSourceError, PullError, StoreError
from embedd.library import Library, ReportProgress
from embedd.ollama_api import ProgressLine
from embedd.server.dialects.base import LIBRARY
from embedd.store import disk
from embedd.store.disk import open_lock
from tests.server.serving import CONTEXT, MIB, OpenServer, Served
from tests.tiny_models import (
    TINY_VOCABULARY,
    find_parts,
    write_tiny_bert,
    write_tiny_checkpoint,
    write_tiny_decoder,
)

NO_BLOB = f"sha256:{'0' * 64}"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read(path: Path) -> bytes:
    return path.read_bytes()


async def upload(served: Served, path: Path) -> str:
    data = read(path)
    digest = digest_of(data)
    reply = await served.send("POST", f"/api/blobs/{digest}", data=data)
    assert reply.status in {200, 201}
    return digest


async def lines_of(served: Served, path: str, **body: object) -> list[dict[str, Any]]:
    reply = await served.post(path, body)
    assert reply.status == 200, reply.body
    assert reply.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in reply.body.splitlines()]


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.01)


def threads_named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def blobs_in(served: Served) -> set[str]:
    return {path.name for path in served.store.layout.blobs.iterdir()}


async def names_in(served: Served) -> set[str]:
    return {model["name"] for model in (await served.send("GET", "/api/tags")).json["models"]}


# --- what is refused, and in which words ---------------------------------------------------

REFUSED: list[tuple[str, str, object, int, str]] = [
    ("POST", "/api/show", b"", 400, "missing request body"),
    ("POST", "/api/show", {}, 400, "model is required"),
    ("POST", "/api/show", {"model": "", "name": None}, 400, "model is required"),
    ("POST", "/api/show", {"model": "bad name!"}, 400, "invalid model name"),
    ("POST", "/api/show", {"name": "nope"}, 404, "model 'nope:latest' not found"),
    ("POST", "/api/show", {"model": "a/NOPE:X"}, 404, "model 'a/NOPE:X' not found"),
    ("POST", "/api/show", {"model": 1}, 400,
     "json: cannot unmarshal number into Go struct field ShowRequest.model of type string"),
    ("POST", "/api/copy", b"", 400, "missing request body"),
    ("POST", "/api/copy", {}, 400, 'source "" is invalid'),
    ("POST", "/api/copy", {"source": "bad name!", "destination": "x"}, 400,
     'source "bad name!" is invalid'),
    ("POST", "/api/copy", {"source": "tiny", "destination": "../x"}, 400,
     'destination "../x" is invalid'),
    ("POST", "/api/copy", {"source": "tiny"}, 400, 'destination "" is invalid'),
    ("POST", "/api/copy", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
    ("DELETE", "/api/delete", b"", 400, "missing request body"),
    ("DELETE", "/api/delete", {}, 400, "model is required"),
    ("DELETE", "/api/delete", {"model": "bad name!"}, 400, 'name "bad name!" is invalid'),
    ("DELETE", "/api/delete", {"name": "nope"}, 404, "model 'nope' not found"),
    ("POST", "/api/pull", b"", 400, "missing request body"),
    ("POST", "/api/pull", {}, 400, "invalid model name"),
    ("POST", "/api/pull", {"model": "bad name!"}, 400, "invalid model name"),
    ("POST", "/api/create", b"", 400, "missing request body"),
    ("POST", "/api/create", {}, 400, "invalid model name"),
    ("POST", "/api/create", {"model": "../../etc/x", "from": "tiny"}, 400, "invalid model name"),
    ("POST", "/api/create", {"model": "x" * 81, "from": "tiny"}, 400, "invalid model name"),
    ("POST", "/api/create", {"model": "x"}, 400, "neither 'from' or 'files' was specified"),
    ("POST", "/api/create", {"model": "x", "files": {}}, 400,
     "neither 'from' or 'files' was specified"),
    ("POST", "/api/create", {"model": "x", "from": "bad name!"}, 400, "invalid model name"),
    ("POST", "/api/create", {"model": "x", "files": {"/etc/passwd": NO_BLOB}}, 400,
     "file path must be relative"),
    ("POST", "/api/create", {"model": "x", "files": {"../a.gguf": NO_BLOB}}, 400,
     "file path must be relative"),
    ("POST", "/api/create", {"model": "x", "files": {"a/./b": NO_BLOB}}, 400,
     "file path must be relative"),
    ("POST", "/api/create", {"model": "x", "files": {"a" * 300: NO_BLOB}}, 400,
     "file path must be relative"),
    ("POST", "/api/create", {"model": "x", "files": {"a.gguf": "sha256:12"}}, 400,
     "invalid digest format"),
    ("POST", "/api/create", {"model": "x", "files": {"a.gguf": "../../x"}}, 400,
     "invalid digest format"),
    ("POST", "/api/create", {"model": "x", "files": {"a.gguf": NO_BLOB}}, 400,
     f'blob "{NO_BLOB}" not found'),
    ("POST", "/api/create", {"model": "x", "from": "tiny", "quantize": "q3"}, 400,
     "unsupported quantization type Q3 - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"),
    ("POST", "/api/create", {"model": "x", "from": "tiny", "adapters": {"a": NO_BLOB}}, 400,
     '"adapters" is not supported'),
    ("POST", "/api/create", {"model": "x", "from": "tiny", "draft_files": {"a": NO_BLOB}}, 400,
     '"draft_files" is not supported'),
    ("POST", "/api/create", {"model": "x", "from": "tiny", "parameters": {"num_ctx": "x"}}, 400,
     'option "num_ctx" must be of type integer'),
    ("POST", "/api/create", {"model": "x", "from": "tiny", "parameters": {"pooling": "max"}}, 400,
     'parameter "pooling" must be one of mean, cls, last, rank'),
    ("POST", "/api/create", {"model": "x", "from": "tiny", "license": 1}, 400,
     "license must be a string or a list of strings"),
    ("POST", "/api/blobs/sha256:12", b"x", 400, "invalid digest format"),
    ("POST", "/api/blobs/..%2f..%2fx", b"x", 400, "invalid digest format"),
    ("POST", f"/api/blobs/{NO_BLOB}", b"x", 400,
     f'digest mismatch, expected "{NO_BLOB}", got "{digest_of(b"x")}"'),
    ("POST", "/api/push", {"model": "tiny"}, 501, "pushing models is not supported"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[1]}-{case[4]}")
async def test_a_refused_request_gets_ollamas_message_and_changes_nothing(
    served: Served, case: tuple[str, str, object, int, str]
) -> None:
    method, path, body, status, text = case
    before = blobs_in(served), await names_in(served)
    arguments = {"data": body} if isinstance(body, bytes) else {"json": body}
    reply = await served.send(method, path, **arguments)
    assert (reply.status, reply.json) == (status, {"error": text})
    assert (blobs_in(served), await names_in(served)) == before
    assert served.loads.names == []


# --- show ----------------------------------------------------------------------------------


async def test_show_has_all_fields_that_clients_read(served: Served) -> None:
    shown = (await served.post("/api/show", {"model": "short"})).json
    [listed] = [
        model
        for model in (await served.send("GET", "/api/tags")).json["models"]
        if model["name"] == "short:latest"
    ]
    info = shown["model_info"]
    assert info["general.architecture"] == "bert"
    assert info["bert.context_length"] == CONTEXT
    assert info["bert.embedding_length"] == 32
    assert info["bert.pooling_type"] == 1
    assert info["bert.attention.layer_norm_epsilon"] == 1e-12
    assert info["general.parameter_count"] > 0
    assert info["tokenizer.ggml.tokens"] is None
    assert "general.name" not in info
    assert next(key for key in info if "context_length" in key) == "bert.context_length"
    assert shown["parameters"] == f"{'num_ctx':<30} 8"
    assert shown["template"] == "{{ .Prompt }}"
    assert shown["capabilities"] == ["embedding"]
    assert shown["modified_at"] == listed["modified_at"]
    assert shown["details"] == {
        key: value
        for key, value in listed["details"].items()
        if key not in {"context_length", "embedding_length"}
    }
    assert {
        "name": "token_embd.weight",
        "type": "F32",
        "shape": [32, len(TINY_VOCABULARY)],
    } in shown["tensors"]
    assert "license" not in shown
    assert "system" not in shown


async def test_show_writes_a_modelfile(served: Served) -> None:
    shown = (await served.post("/api/show", {"model": "prefixed"})).json
    lines = shown["modelfile"].split("\n")
    assert lines[:4] == [
        '# Modelfile generated by "embedd show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        "# FROM prefixed:latest",
        "",
    ]
    assert lines[4].startswith(f"FROM {served.store.layout.blobs}/sha256-")
    assert lines[5:] == [
        "TEMPLATE {{ .Prompt }}",
        'PARAMETER query_prefix "ask: "',
        'PARAMETER document_prefix "doc: "',
        "",
    ]


async def test_show_verbose_has_the_arrays(served: Served) -> None:
    reply = await served.post("/api/show", {"model": "tiny", "verbose": True})
    tokens = reply.json["model_info"]["tokenizer.ggml.tokens"]
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert reply.json["model_info"]["tokenizer.ggml.token_type"][0] == 3


async def test_show_of_a_damaged_model_is_what_its_config_says(served: Served) -> None:
    for digest in list(served.store.blobs.digests()):
        path = served.store.blobs.path(digest)
        if path.stat().st_size > 1000:
            path.write_bytes(b"GGUF" + bytes(100))
    reply = await served.post("/api/show", {"model": "tiny"})
    assert (reply.status, reply.json["model_info"], reply.json["tensors"]) == (200, {}, [])


# --- copy and delete -----------------------------------------------------------------------


async def test_a_copy_shares_blobs_and_memory_and_is_deleted_alone(served: Served) -> None:
    before = blobs_in(served)
    reply = await served.post("/api/copy", {"source": "TINY", "destination": "x"})
    assert (reply.status, reply.body) == (200, b"")
    assert blobs_in(served) == before
    one = await served.embed(input="hello")
    two = await served.embed(model="x", input="hello")
    assert one.json["embeddings"] == two.json["embeddings"]
    assert len(served.loads.names) == 1
    reply = await served.send("DELETE", "/api/delete", json={"model": "x"})
    assert (reply.status, reply.body) == (200, b"")
    assert await served.loaded() == ["tiny:latest"]
    reply = await served.send("DELETE", "/api/delete", json={"name": "x"})
    assert (reply.status, reply.json) == (404, {"error": "model 'x' not found"})
    assert blobs_in(served) == before


async def test_deleting_the_last_name_takes_the_model_from_memory_and_disk(served: Served) -> None:
    before = blobs_in(served)
    await served.embed(model="other", input="hello")
    await served.send("DELETE", "/api/delete", json={"model": "other"})
    assert await served.loaded() == []
    assert len(before - blobs_in(served)) == 1
    assert served.loads.models[0].closed


async def test_a_refused_delete_unloads_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, __: object) -> bool:
        raise StoreError("cannot write: Read-only file system")

    await served.embed(model="other", input="hello")
    monkeypatch.setattr("embedd.store.store.Store.delete", refuse)
    reply = await served.send("DELETE", "/api/delete", json={"model": "other"})
    assert reply.status == 500
    assert await served.loaded() == ["other:latest"]


async def test_asking_for_a_file_that_is_not_there_is_not_a_failure(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="embedd"):
        assert (await served.send("HEAD", f"/api/blobs/{NO_BLOB}")).status == 404
    assert caplog.messages == []


async def test_a_damaged_model_can_be_deleted(served: Served) -> None:
    for path in served.store.layout.manifests.rglob("latest"):
        if "other" in str(path):
            path.write_text("{")
    reply = await served.send("DELETE", "/api/delete", json={"model": "other"})
    assert reply.status == 200
    assert "other:latest" not in await names_in(served)


async def test_letter_case_never_makes_a_second_model(served: Served) -> None:
    await served.post("/api/copy", {"source": "tiny", "destination": "New"})
    await served.post("/api/copy", {"source": "other", "destination": "NEW:Latest"})
    await served.post("/api/create", {"model": "nEw", "from": "TINY", "stream": False})
    assert {name for name in await names_in(served) if name.lower() == "new:latest"} == {
        "New:latest"
    }
    assert (await served.send("DELETE", "/api/delete", json={"model": "NEW"})).status == 200


class LockTime:
    """The time of those that wait for the store's lock, moved by hand.

    Attributes:
        waiting: Threads that have waited.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting: set[int] = set()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.waiting.add(threading.get_ident())
        time.sleep(0.001)


async def test_waiters_for_the_stores_lock_hold_up_no_other_request_and_are_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as used to take every thread that requests share."""
    hand = LockTime()
    monkeypatch.setattr(disk, "time", hand)
    with open_lock(served.store.layout.lock):
        copies = [
            asyncio.create_task(
                served.post("/api/copy", {"source": "tiny", "destination": f"x{number}"})
            )
            for number in range(40)
        ]
        await until(lambda: len(hand.waiting) == 4)
        assert threads_named("changes of the store") == 4
        assert (await served.send("GET", "/api/tags")).status == 200
        assert (await served.embed(input="hello " * 500)).status == 200
        assert not any(copy.done() for copy in copies)
        hand.now += disk.LOCK_TIMEOUT
        replies = [await copy for copy in copies[:4]]
    assert {reply.status for reply in replies} == {503}
    assert "locked by another process since 30 s" in replies[0].json["error"]
    assert "Retry-After" in replies[0].headers
    assert {(await copy).status for copy in copies[4:]} == {200}


async def test_more_pulls_and_creates_than_threads_for_them_are_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(Library, "pull", lambda *_, **__: go_on.wait(60))
    pulls = [asyncio.create_task(served.post("/api/pull", {"model": "x"})) for _ in range(16)]
    await until(lambda: threads_named("pulls and creates") == 16)
    reply = await served.post("/api/pull", {"model": "x"})
    assert (reply.status, "Retry-After" in reply.headers) == (503, True)
    go_on.set()
    for pull in pulls:
        pull.cancel()
    await asyncio.wait(pulls)


# --- create --------------------------------------------------------------------------------


async def test_create_from_a_model_merges_parameters_and_licences(served: Served) -> None:
    reply = await served.post(
        "/api/create",
        {"model": "x", "from": "prefixed", "parameters": {"num_ctx": 16.0, "stop": None,
         "query_prefix": "q: ", "nonsense": 1}, "license": "MIT", "stream": False,
         "template": "no effect"},
    )  # fmt: skip
    assert (reply.status, reply.json) == (200, {"status": "success"})
    assert reply.headers["Content-Type"] == "application/json"
    shown = (await served.post("/api/show", {"model": "x"})).json
    assert sorted(shown["parameters"].splitlines()) == [
        f'{"document_prefix":<30} "doc: "',
        f"{'num_ctx':<30} 16",
        f'{"query_prefix":<30} "q: "',
    ]
    assert shown["license"] == "MIT"
    long = await served.embed(model="x", input="hello " * 40)
    assert long.json["prompt_eval_count"] == 16
    await served.post("/api/create", {"model": "y", "from": "x", "license": ["MIT", "Apache"],
                                      "stream": False})  # fmt: skip
    shown = (await served.post("/api/show", {"model": "y"})).json
    assert shown["license"] == "MIT\nApache"


async def test_create_sends_a_line_for_each_step(served: Served) -> None:
    lines = await lines_of(
        served, "/api/create", model="x", **{"from": "tiny"}, parameters={"num_ctx": 9}
    )
    statuses = [line["status"] for line in lines]
    assert [status.rpartition(" ")[0] or status for status in statuses] == [
        "using existing layer",
        "creating new layer",
        "using existing layer",
        "writing",
        "success",
    ]
    assert statuses[-2] == "writing manifest"


async def test_create_from_an_uploaded_gguf(served: Served, tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "new.gguf", seed=9)
    digest = await upload(served, path)
    assert (await served.send("HEAD", f"/api/blobs/{digest}")).status == 200
    lines = await lines_of(served, "/api/create", model="x", files={"any name": digest})
    assert [line["status"] for line in lines][:2] == [
        "parsing GGUF",
        f"using existing layer {digest}",
    ]
    assert lines[-1] == {"status": "success"}
    assert (await served.embed(model="x", input="hello")).status == 200


async def test_create_from_uploaded_safetensors(served: Served, tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    files = {
        str(path.relative_to(folder)): await upload(served, path)
        for path in folder.rglob("*")
        if path.is_file()
    }
    lines = await lines_of(served, "/api/create", model="x", files=files, quantize="Q8_0")
    assert lines[0] == {"status": "converting model"}
    assert lines[-1] == {"status": "success"}
    shown = (await served.post("/api/show", {"model": "x"})).json
    assert shown["details"]["quantization_level"] == "Q8_0"
    assert shown["parameters"] == f"{'num_ctx':<30} 32"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.gguf", b"PK\x03\x04 a zip, renamed", "supplied file was not in GGUF format"),
        ("a.txt", b"hello", "unknown type"),
    ],
)
async def test_a_file_of_another_kind_is_refused(
    served: Served, name: str, data: bytes, text: str
) -> None:
    digest = digest_of(data)
    await served.send("POST", f"/api/blobs/{digest}", data=data)
    reply = await served.post("/api/create", {"model": "x", "files": {name: digest}})
    assert (reply.status, reply.json) == (400, {"error": text})
    assert "x:latest" not in await names_in(served)


@pytest.mark.parametrize("fault", ["truncated", "lying"])
async def test_a_damaged_gguf_is_an_error_and_leaves_nothing(
    served: Served, tmp_path: Path, fault: str
) -> None:
    before = blobs_in(served)
    data = write_tiny_bert(tmp_path / "new.gguf", seed=9).read_bytes()
    broken = data[:-100] if fault == "truncated" else data[:8] + b"\xff" * 8 + data[16:]
    digest = digest_of(broken)
    await served.send("POST", f"/api/blobs/{digest}", data=broken)
    lines = await lines_of(served, "/api/create", model="x", files={"a.gguf": digest})
    assert lines[0] == {"status": "parsing GGUF"}
    assert "GGUF" in lines[-1]["error"]
    assert blobs_in(served) == before
    assert "x:latest" not in await names_in(served)
    again = await served.send("POST", f"/api/blobs/{digest}", data=broken)
    assert again.status == 201
    whole = await served.post(
        "/api/create", {"model": "x", "files": {"a.gguf": digest}, "stream": False}
    )
    assert whole.status == 500


async def test_the_parts_of_a_split_gguf_make_a_model(served: Served, tmp_path: Path) -> None:
    write_tiny_bert(tmp_path / "whole.gguf", split=8)
    parts = find_parts(tmp_path / "whole.gguf")
    files = {part.name: await upload(served, part) for part in reversed(parts)}
    lines = await lines_of(served, "/api/create", model="x", files=files)
    assert lines[-1] == {"status": "success"}
    lines = await lines_of(served, "/api/create", model="x", files=files, quantize="q8_0")
    assert "cannot be quantized" in lines[-1]["error"]


async def test_several_ggufs_are_refused_with_advice(served: Served, tmp_path: Path) -> None:
    files = {
        f"{seed}.gguf": await upload(served, write_tiny_bert(tmp_path / f"{seed}", seed=seed))
        for seed in (8, 9)
    }
    lines = await lines_of(served, "/api/create", model="x", files=files)
    assert "2 GGUFs were given, but they are not parts of one model" in lines[-1]["error"]


async def test_a_name_that_is_a_folder_of_another_is_refused(
    served: Served, tmp_path: Path
) -> None:
    digest = await upload(served, write_tiny_bert(tmp_path / "a.gguf", seed=9))
    files = {"a": digest, "a/model.safetensors": digest}
    reply = await served.post("/api/create", {"model": "x", "files": files})
    assert reply.status == 400
    assert reply.json["error"].startswith('file "a/model.safetensors" has no place')


async def test_a_language_model_is_stored_and_never_loaded(served: Served, tmp_path: Path) -> None:
    digest = await upload(served, write_tiny_decoder(tmp_path / "llm.gguf", seed=9))
    await lines_of(served, "/api/create", model="x", files={"llm.gguf": digest})
    reply = await served.embed(model="x", input="hello")
    assert (reply.status, reply.json["error"]) == (501, "this model does not support embeddings")
    pooled = {"model": "y", "from": "x", "parameters": {"pooling": "last"}, "stream": False}
    await served.post("/api/create", pooled)
    shown = (await served.post("/api/show", {"model": "y"})).json
    assert shown["capabilities"] == ["embedding"]


async def test_a_conversion_that_fails_is_the_last_line(served: Served, tmp_path: Path) -> None:
    digest = await upload(served, write_tiny_bert(tmp_path / "a.gguf", seed=9))
    lines = await lines_of(served, "/api/create", model="x", files={"model.safetensors": digest})
    assert lines[0] == {"status": "converting model"}
    assert set(lines[-1]) == {"error"}
    assert not [name for name in blobs_in(served) if name.startswith(".")]


# --- blobs ---------------------------------------------------------------------------------


async def test_a_blob_is_stored_once(served: Served) -> None:
    data = b"some bytes"
    path = f"/api/blobs/{digest_of(data)}"
    missing = await served.send("HEAD", path)
    assert (missing.status, missing.body) == (404, b"")
    statuses = [(await served.send("POST", path, data=data)).status for _ in range(2)]
    assert statuses == [201, 200]
    assert (await served.send("HEAD", path.replace("sha256:", "sha256-").upper().replace(
        "/API/BLOBS/SHA256", "/api/blobs/sha256"))).status == 200  # fmt: skip
    assert (await served.send("HEAD", path + "/")).status == 200
    assert (await served.send("HEAD", "/api/blobs/sha256:12")).status == 400


async def test_an_upload_may_be_larger_than_a_body_and_come_in_chunks(
    open_server: OpenServer,
) -> None:
    from embedd.server.http.bodies import BodyLimits

    served: Served = await open_server(bodies=BodyLimits(max_body=1024, max_in_flight=2048))
    data = bytes(5 * MIB + 7)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    path = f"/api/blobs/{digest_of(data)}"
    assert (await served.send("POST", path, data=pieces())).status == 201
    assert served.store.blobs.path(digest_of(data)).read_bytes() == data


async def test_an_upload_that_breaks_off_leaves_nothing(served: Served) -> None:
    before = blobs_in(served)
    assert served.client.port is not None
    _, writer = await asyncio.open_connection("127.0.0.1", served.client.port)
    writer.write(
        f"POST /api/blobs/{NO_BLOB} HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Length: 9000000\r\n\r\n".encode()
        + bytes(2_000_000)
    )
    await writer.drain()
    await until(lambda: blobs_in(served) != before)
    writer.close()
    await until(lambda: blobs_in(served) == before)


# --- pull ----------------------------------------------------------------------------------


class FakeLibrary(Library):
    """Pulls what the test says."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.asked: list[object] = []
        self._loop = asyncio.get_running_loop()

    def pull(self, text: str, report: ReportProgress, *, stop: Any, insecure: bool) -> bool:  # type: ignore[override]  # a fake with the arguments that the route passes
        self.asked.append((text, insecure))
        report(ProgressLine(status="pulling manifest"))
        if text == "mistyped":
            raise NoSourceError("pull model manifest: file does not exist")
        if text == "nope":
            raise PullError("pull model manifest: file does not exist")
        if text == "bug":
            raise ValueError("secret")
        if text == "slow":
            while not stop():
                time.sleep(0.01)
                report(ProgressLine(status="pulling 797b", total=9, completed=1))
            self._loop.call_soon_threadsafe(self.stopped.set)
            raise PullError("stopped")
        report(ProgressLine(status="pulling 797b", digest="sha256:797b", total=9))
        report(ProgressLine(status="success"))
        return True


@pytest.fixture
async def puller(served: Served) -> FakeLibrary:
    library = FakeLibrary()
    state = served.client.app._state
    state[LIBRARY] = library
    return library


async def test_a_pull_sends_a_line_for_each_step(served: Served, puller: FakeLibrary) -> None:
    assert await lines_of(served, "/api/pull", name="m", model="", insecure=True) == [
        {"status": "pulling manifest"},
        {"status": "pulling 797b", "digest": "sha256:797b", "total": 9},
        {"status": "success"},
    ]
    assert puller.asked == [("m", True)]


@pytest.mark.usefixtures("puller")
async def test_a_pull_without_stream_is_one_answer(served: Served) -> None:
    reply = await served.post("/api/pull", {"model": "m", "stream": False})
    assert (reply.status, reply.json) == (200, {"status": "success"})
    assert reply.headers["Content-Type"] == "application/json"
    reply = await served.post("/api/pull", {"model": "nope", "stream": False})
    assert reply.status == 500
    assert reply.json == {"error": "pull model manifest: file does not exist"}


@pytest.mark.usefixtures("puller")
@pytest.mark.parametrize(("name", "level"), [("mistyped", logging.INFO), ("nope", logging.WARNING)])
async def test_a_mistyped_name_is_no_warning(
    served: Served, name: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "embedd.server"):
        await lines_of(served, "/api/pull", model=name)
    [record] = [one for one in caplog.records if one.message == "request failed"]
    assert record.levelno == level


@pytest.mark.usefixtures("puller")
@pytest.mark.parametrize(
    ("name", "text"),
    [("nope", "pull model manifest: file does not exist"), ("bug", "internal error")],
)
async def test_a_pull_that_fails_ends_with_a_line_that_says_so(
    served: Served, name: str, text: str
) -> None:
    assert await lines_of(served, "/api/pull", model=name) == [
        {"status": "pulling manifest"},
        {"error": text},
    ]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_pull(
    served: Served, puller: FakeLibrary, stream: bool
) -> None:
    asking = asyncio.create_task(served.post("/api/pull", {"model": "slow", "stream": stream}))
    await until(lambda: puller.asked)
    asking.cancel()
    await asyncio.wait_for(puller.stopped.wait(), 10)
