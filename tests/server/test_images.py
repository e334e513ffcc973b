"""Painting over HTTP: streams, clients that leave, queues, keys, and what needs the extra."""

import asyncio
import base64
import json
import re
from typing import Any

import pytest

from embedd.server.access.auth import Keys
from embedd.server.dialects.images import events
from tests.server.serving import OpenServer, Reply, Served, until

NEBULA = "/api/v1/images/generation"
OPENAI = "/v1/images/generations"
A1111 = "/sdapi/v1/txt2img"
EXTRA = (
    "image generation needs the optional extra embedd-server[images], which is not installed: "
    "pip install 'embedd-server[images]'"
)


@pytest.fixture
async def painting(served: Served) -> Served:
    served.add_image_model("sd")
    return served


def body(path: str, **more: object) -> dict[str, object]:
    if path == A1111:
        return {"prompt": "a lovely cat", **more}
    return {"model": "sd", "prompt": "a lovely cat", **more}


def picture(reply: Reply) -> bytes:
    """The only picture of an answer of any dialect."""
    answer = reply.json
    if "images" in answer:
        text = answer["images"][0]
    elif "data" in answer:
        text = answer["data"][0]["b64_json"]
    else:
        text = answer["image"]
    return base64.b64decode(text)


async def test_the_same_seed_gives_the_same_picture_in_every_dialect(painting: Served) -> None:
    pictures = [
        picture(await painting.post(NEBULA, body(NEBULA, seed=7))),
        picture(await painting.post(OPENAI, body(OPENAI, seed=7))),
        picture(await painting.post(A1111, body(A1111, seed=7))),
        picture(await painting.post("/api/generate", body("", options={"seed": 7}, stream=False))),
    ]
    assert len(set(pictures)) == 1
    other = picture(await painting.post(NEBULA, body(NEBULA, seed=8)))
    assert other not in pictures


@pytest.mark.parametrize("path", [NEBULA, OPENAI, A1111])
async def test_the_seed_that_was_drawn_paints_the_picture_again(
    path: str, painting: Served
) -> None:
    first = await painting.post(path, body(path, seed=-1))
    seed = int(first.headers["X-Embedd-Seed"])
    again = await painting.post(path, body(path, seed=seed))
    assert picture(first) == picture(again)


@pytest.mark.parametrize(
    ("accept", "start"),
    [("image/png", b"\x89PNG"), ("image/jpeg", b"\xff\xd8"), ("image/webp;q=0.9, */*", b"RIFF"),
     ("image/*", b"\x89PNG")],
)  # fmt: skip
@pytest.mark.parametrize("path", [NEBULA, OPENAI])
async def test_the_bytes_of_a_picture_come_in_the_format_that_is_accepted(
    path: str, accept: str, start: bytes, painting: Served
) -> None:
    reply = await painting.send("POST", path, json=body(path, seed=9), headers={"Accept": accept})
    assert reply.status == 200
    assert reply.body.startswith(start)
    kind = reply.headers["Content-Type"]
    suffix = kind.removeprefix("image/")
    assert reply.headers["Content-Disposition"] == f'inline; filename="9.{suffix}"'


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html,image/webp,*/*", ""])
async def test_other_clients_get_json(accept: str, painting: Served) -> None:
    reply = await painting.send("POST", OPENAI, json=body(OPENAI), headers={"Accept": accept})
    assert reply.json["data"]


async def test_formats_and_metadata_are_as_asked_for(painting: Served) -> None:
    plain = picture(await painting.post(OPENAI, body(OPENAI, seed=1, metadata=False)))
    described = picture(await painting.post(OPENAI, body(OPENAI, seed=1)))
    assert b"a lovely cat" not in plain
    assert b"a lovely cat" in described
    reply = await painting.post(
        OPENAI, body(OPENAI, output_format="jpeg", output_compression=10, response_format="url")
    )
    small = reply.json["data"][0]["url"]
    assert small.startswith("data:image/jpeg;base64,/9j/")
    assert reply.json["output_format"] == "jpeg"
    reply = await painting.post(
        OPENAI, body(OPENAI, output_format="jpeg", output_compression=99, response_format="url")
    )
    assert len(reply.json["data"][0]["url"]) > len(small)


@pytest.mark.parametrize("path", [NEBULA, OPENAI, "/api/generate"])
async def test_a_client_that_leaves_ends_its_picture_and_the_next_is_painted(
    path: str, painting: Served
) -> None:
    painting.images.is_open = False
    async with painting.client.post(path, json=body(path, stream=True, steps=150)) as response:
        assert response.status == 200
        await until(
            lambda: bool(painting.images.workers) and bool(painting.images.workers[0].prompts)
        )
        [worker] = painting.images.workers
        response.close()
        await until(lambda: worker.was_killed)
    painting.images.is_open = True
    reply = await painting.post(OPENAI, body(OPENAI))
    assert reply.status == 200
    assert len(painting.images.workers) == 2


async def test_a_client_without_a_stream_that_leaves_ends_its_picture(painting: Served) -> None:
    painting.images.is_open = False
    task = asyncio.create_task(painting.post(NEBULA, body(NEBULA, num_steps=150)))
    await until(lambda: bool(painting.images.workers) and bool(painting.images.workers[0].prompts))
    task.cancel()
    [worker] = painting.images.workers
    await until(lambda: worker.was_killed)


async def test_a_picture_waits_for_another_and_one_too_many_is_refused(
    open_server: OpenServer,
) -> None:
    served: Served = await open_server(max_waiting_images=1)
    served.add_image_model("sd")
    served.images.is_open = False
    first = asyncio.create_task(served.post(OPENAI, body(OPENAI)))
    await until(lambda: bool(served.images.workers) and bool(served.images.workers[0].prompts))
    second = asyncio.create_task(served.post(OPENAI, body(OPENAI)))
    await until(lambda: served.scheduler.statuses()[0].waiting_requests == 1)
    for path, status, text in (
        (OPENAI, 429, "server busy, please try again"),
        (NEBULA, 429, "server busy, please try again"),
        (A1111, 503, "server busy, please try again"),
        ("/api/generate", 503, "server busy, please try again.  maximum pending requests exceeded"),
    ):
        reply = await served.post(path, body(path, stream=True))
        assert reply.status == status
        assert text in reply.body.decode()
        assert int(reply.headers["Retry-After"]) > 0
    served.images.workers[0].gate.set()
    assert [(await one).status for one in (first, second)] == [200, 200]


@pytest.mark.parametrize("path", [NEBULA, OPENAI])
async def test_a_stream_keeps_proxies_awake_while_nothing_happens(
    path: str, painting: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "QUIET_SECONDS", 0.01)
    painting.images.is_open = False
    async with painting.client.post(path, json=body(path, stream=True)) as response:
        while not (line := await response.content.readline()).startswith(b": "):
            assert line
        assert re.fullmatch(rb": (loading|queued, \d before|step 0/2)\n", line)
        painting.images.workers[0].gate.set()
        assert b"b64_json" in await response.read()


async def test_a_death_while_painting_is_an_error_and_the_next_picture_is_painted(
    painting: Served,
) -> None:
    painting.images.is_open = False
    task = asyncio.create_task(painting.post(NEBULA, body(NEBULA)))
    await until(lambda: bool(painting.images.workers) and bool(painting.images.workers[0].prompts))
    painting.images.is_open = True
    painting.images.workers[0].die()
    reply = await task
    assert reply.status == 500
    assert "image engine died" in reply.json["message"]
    assert (await painting.post(NEBULA, body(NEBULA))).status == 200


async def test_progress_and_interrupt_are_about_the_pictures_of_the_same_key(
    open_server: OpenServer,
) -> None:
    served: Served = await open_server(keys=Keys(listed=["one", "two"]))
    served.add_image_model("sd")
    served.images.is_open = False

    def key(name: str) -> dict[str, str]:
        return {"X-Api-Key": name}

    async def ask(method: str, path: str, name: str, **more: Any) -> Reply:
        return await served.send(method, f"/sdapi/v1/{path}", headers=key(name), **more)

    task = asyncio.create_task(ask("POST", "txt2img", "one", json=body(A1111)))
    await until(lambda: bool(served.images.workers) and bool(served.images.workers[0].prompts))
    state = (await ask("GET", "progress", "one")).json["state"]
    assert (state["job_count"], state["sampling_steps"]) == (1, 2)
    assert (await ask("GET", "progress", "two")).json["state"]["job_count"] == 0
    assert (await ask("POST", "interrupt", "two", json={})).json == {}
    assert not task.done()
    assert (await ask("POST", "interrupt", "one", json={})).json == {}
    reply = await task
    assert reply.status == 503
    assert reply.json["error"] == "the picture was cancelled"


async def test_progress_is_the_share_of_all_steps(painting: Served) -> None:
    painting.images.is_open = False
    task = asyncio.create_task(painting.post(A1111, body(A1111, n_iter=2, steps=4)))
    await until(lambda: bool(painting.images.workers) and bool(painting.images.workers[0].prompts))
    reply = await painting.send("GET", "/sdapi/v1/progress")
    assert reply.json["progress"] == 0
    assert reply.json["state"]["job"] == "txt2img"
    painting.images.workers[0].gate.set()
    assert (await task).status == 200
    assert (await painting.send("GET", "/sdapi/v1/progress")).json["state"]["job"] == ""


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


async def test_basic_authentication_is_for_a1111s_paths_alone(open_server: OpenServer) -> None:
    served: Served = await open_server(keys=Keys(listed=["k"], admin=["boss"]))
    served.add_image_model("sd")
    for headers, status in (
        (basic("user:k"), 200),
        (basic(":k"), 200),
        (basic("k:"), 401),
        (basic("user:no"), 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": "Bearer k"}, 200),
        ({}, 401),
    ):
        reply = await served.send("POST", A1111, json=body(A1111), headers=headers)
        assert reply.status == status, headers
    reply = await served.send("POST", OPENAI, json=body(OPENAI), headers=basic("user:k"))
    assert reply.status == 401
    for path in ("options", "interrupt"):
        for name, status in (("k", 403), ("boss", 200)):
            reply = await served.send(
                "POST", f"/sdapi/v1/{path}", json={}, headers=basic(f"u:{name}")
            )
            assert reply.status == status


@pytest.mark.parametrize(
    ("path", "status"), [(OPENAI, 400), (NEBULA, 400), (A1111, 400), ("/api/generate", 501)]
)
async def test_without_the_extra_the_answer_says_what_to_install(
    path: str, status: int, open_server: OpenServer
) -> None:
    served: Served = await open_server(with_images=False)
    served.add_image_model("sd")
    for stream in (False, True):
        reply = await served.post(path, body(path, stream=stream))
        assert reply.status == status
        error = reply.json["error"]
        assert (error["message"] if isinstance(error, dict) else error) == EXTRA
    reply = await served.send("GET", "/api/tags")
    assert "image" in [model["capabilities"][0] for model in reply.json["models"]]


async def test_ps_show_models_and_stop_know_image_models(painting: Served) -> None:
    await painting.post(OPENAI, body(OPENAI))
    [row] = await painting.ps()
    assert row["name"] == "sd:latest"
    assert row["details"]["family"] == "flux2-klein"
    assert len(row["digest"]) == 64
    assert (row["engine"], row["context_length"]) == ("fake", 0)
    shown = (await painting.post("/api/show", {"model": "sd"})).json
    assert shown["capabilities"] == ["image"]
    assert shown["engine"] == "fake"
    listed = (await painting.send("GET", "/v1/models")).json
    assert "sd:latest" in [model["id"] for model in listed["data"]]
    one = await painting.send("GET", "/v1/models/sd")
    assert (one.status, one.json["context_length"]) == (200, 0)
    await painting.post("/api/generate", {"model": "sd", "keep_alive": 0})
    assert await painting.loaded() == []


async def test_a_model_that_is_deleted_is_unloaded_unless_another_name_has_it(
    painting: Served,
) -> None:
    await painting.post("/api/copy", {"source": "sd", "destination": "again"})
    await painting.post(OPENAI, body(OPENAI))
    assert (await painting.send("DELETE", "/api/delete", json={"model": "again"})).status == 200
    assert await painting.loaded() == ["sd:latest"]
    assert (await painting.send("DELETE", "/api/delete", json={"model": "sd"})).status == 200
    assert await painting.loaded() == []


async def test_what_a_client_sends_is_not_reflected_as_it_is(painting: Served) -> None:
    odd = {f"x\r\nSet-Cookie: {number}é": 1 for number in range(50)}
    reply = await painting.post(OPENAI, body(OPENAI, **odd))
    ignored = reply.headers["X-Embedd-Ignored"]
    assert len(ignored) <= 200
    assert ignored.isascii()
    assert ignored.startswith("x??Set-Cookie??0?")
    assert "Set-Cookie" not in reply.headers


async def test_embedding_routes_refuse_image_models_by_name(painting: Served) -> None:
    text = '"sd" makes images, not embeddings'
    for path, request in (
        ("/v1/embeddings", {"model": "sd", "input": "a"}),
        ("/api/embeddings", {"model": "sd", "prompt": "a"}),
        ("/v1/rerank", {"model": "sd", "query": "a", "documents": ["b"]}),
        ("/tokenize", {"model": "sd", "content": "a"}),
    ):
        reply = await painting.post(path, request)
        assert 400 <= reply.status < 600
        assert text in json.dumps(reply.json, ensure_ascii=False).replace('\\"', '"'), path
    assert await painting.loaded() == []
