"""Slices of long answers: one at a time of all, and other requests between two."""

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from embedd.server.http.json_out import RENDERING, Rows, parts_response


async def test_slices_of_all_answers_are_rendered_one_at_a_time() -> None:
    turn, turns = 0, list[int]()

    def render(start: int, stop: int) -> bytes:
        turns.append(turn)
        return b"1" * (stop - start)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await parts_response(request, [b"[", Rows(20, render, 1), b"]"], {})

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    app = web.Application()
    app[RENDERING] = asyncio.Lock()
    app.router.add_get("/", answer)
    async with TestClient(TestServer(app)) as client:
        counting = asyncio.create_task(count_turns())
        replies = await asyncio.gather(*(client.get("/") for _ in range(8)))
        assert {await reply.text() for reply in replies} == {f"[{','.join('1' * 20)}]"}
        counting.cancel()
    assert len(turns) == 8 * 20
    assert len({*turns}) == len(turns), "the event loop turns between two slices"
