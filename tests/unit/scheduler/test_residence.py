"""How long a model stays: loading once, keep_alive, unloading, what is shown."""

import asyncio
import math

from embedd.errors import (
    InsufficientMemoryError,
)
from tests.unit.scheduler.clients import Desk, fake, make_spec

A, B, C = make_spec("a"), make_spec("b"), make_spec("c")


# Loading


async def test_clients_of_one_missing_model_share_one_load() -> None:
    desk = Desk()
    clients = [await desk.ask(A) for _ in range(64)]
    assert desk.loader.started == ["a"]
    await desk.loader.finish("a")
    assert len({id(client.model) for client in clients}) == 1
    assert all(client.model is desk.loader.models[0] for client in clients)


async def test_different_models_load_side_by_side() -> None:
    desk = Desk()
    a, b = await desk.ask(A), await desk.ask(B)
    assert desk.loader.loading == ["a", "b"]
    await desk.loader.finish("b")
    assert b.model is not None
    assert a.model is None


async def test_a_load_does_not_hold_up_a_loaded_model() -> None:
    desk = Desk()
    await desk.keep(A)
    await desk.ask(B)
    assert (await desk.ask(A)).model is not None


async def test_a_second_request_finds_the_model_loaded() -> None:
    desk = Desk()
    await desk.keep(A)
    assert (await desk.ask(A)).model is not None
    assert desk.loader.started == ["a"]


async def test_a_model_that_can_never_fit_is_refused_at_once() -> None:
    desk = Desk(memory=100)
    client = await desk.ask(make_spec("huge", 101))
    assert isinstance(client.error, InsufficientMemoryError)
    assert desk.loader.started == []


# keep_alive


async def test_an_idle_model_goes_when_its_time_is_over() -> None:
    desk = Desk(keep_alive=300)
    await desk.keep(A)
    await desk.advance(299.9)
    assert desk.loaded == ["a"]
    await desk.advance(0.2)
    assert desk.loaded == []
    assert desk.loader.models[0].closed


async def test_the_time_starts_anew_when_the_last_request_ends() -> None:
    desk = Desk(keep_alive=300)
    first, second = await desk.serve(A), await desk.serve(A)
    await desk.advance(1000)
    await first.leave()
    await desk.advance(1000)
    await second.leave()
    await desk.advance(299)
    await desk.keep(A)
    await desk.advance(299)
    assert desk.loaded == ["a"]
    await desk.advance(2)
    assert desk.loaded == []


async def test_keep_alive_is_sticky() -> None:
    desk = Desk(keep_alive=300)
    await desk.keep(A, 600)
    await desk.keep(A)
    assert desk.expires_in(A) == 600
    await desk.keep(A, 20)
    assert desk.expires_in(A) == 20


async def test_keep_alive_of_a_request_that_waits_is_kept() -> None:
    desk = Desk(keep_alive=300)
    clients = [await desk.ask(A, 600), await desk.ask(A)]
    await desk.loader.finish("a")
    for client in clients:
        await client.leave()
    assert desk.expires_in(A) == 600


async def test_keep_alive_zero_unloads_when_the_last_request_ends() -> None:
    desk = Desk()
    first, second = await desk.serve(A, 0), await desk.serve(A)
    await first.leave()
    assert desk.loaded == ["a"]
    await second.leave()
    assert desk.loaded == []
    assert desk.loader.models[0].closed


async def test_keep_alive_for_ever_never_ends() -> None:
    desk = Desk()
    await desk.keep(A, math.inf)
    await desk.advance(1e9)
    assert desk.loaded == ["a"]
    assert desk.expires_in(A) == math.inf


async def test_a_busy_model_outlives_its_time() -> None:
    desk = Desk(keep_alive=1)
    client = await desk.serve(A)
    await desk.advance(1000)
    assert not fake(client).closed
    assert desk.expires_in(A) == 1


async def test_a_model_whose_clients_left_expires_like_others() -> None:
    desk = Desk(keep_alive=300)
    client = await desk.ask(A)
    await client.vanish()
    await desk.loader.finish("a")
    assert desk.expires_in(A) == 300
    await desk.advance(301)
    assert desk.loaded == []


# Unloading on demand


async def test_unload_returns_when_an_idle_model_is_gone() -> None:
    desk = Desk()
    await desk.keep(A, math.inf)
    await desk.scheduler.unload(A)
    assert desk.loader.models[0].closed
    assert desk.loaded == []


async def test_unload_lets_running_requests_finish() -> None:
    desk = Desk()
    client = await desk.serve(A, math.inf)
    await asyncio.wait_for(desk.scheduler.unload(A), 1)
    assert not fake(client).closed
    await client.leave()
    assert desk.loaded == []


async def test_unload_of_a_model_that_loads_lets_it_go_after_its_requests() -> None:
    desk = Desk()
    client = await desk.ask(A)
    await desk.scheduler.unload(A)
    await desk.loader.finish("a")
    assert client.model is not None
    await client.leave()
    assert desk.loaded == []


async def test_unload_of_a_model_that_is_not_there_does_nothing() -> None:
    desk = Desk()
    await desk.scheduler.unload(A)
    assert desk.scheduler.statuses() == []


# Looking


async def test_the_statuses_list_what_is_loaded_and_what_is_loading() -> None:
    desk = Desk(max_models=2)
    await desk.serve(A, 60)
    await desk.ask(B, 20)
    [a, b] = desk.scheduler.statuses()
    assert (a.spec, a.size, a.expires_in) == (A, 10, 60)
    assert (b.spec, b.size, b.expires_in, b.info) == (B, 10, 20, None)
    await desk.ask(C)
    assert len(desk.scheduler.statuses()) == 2, "what waits for room is not listed"


async def test_the_time_until_expiry_counts_down() -> None:
    desk = Desk(keep_alive=300)
    await desk.keep(A)
    await desk.advance(100)
    assert desk.expires_in(A) == 200
